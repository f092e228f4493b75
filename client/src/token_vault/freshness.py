"""The life that a served token must have left."""

from __future__ import annotations

from datetime import datetime, timedelta

# If the app names no `min_ttl`, the token has this much life left, or a third of its life if that is shorter.
DEFAULT_MIN_TTL = timedelta(seconds=30)
# A grant's reads are noted at most every 12 hours, so that reads stay cheap.
READ_NOTE_INTERVAL = timedelta(hours=12)


def default_min_ttl(expires_at: datetime | None, obtained_at: datetime | None) -> timedelta:
    """Return the life a served token has left by default.

    Timely renewal always leaves this much.
    """
    if expires_at is None or obtained_at is None:
        return DEFAULT_MIN_TTL
    return min(DEFAULT_MIN_TTL, max((expires_at - obtained_at) / 3, timedelta(0)))
