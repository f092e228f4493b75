"""The life that a served token must have left."""

from __future__ import annotations

from datetime import datetime, timedelta

# Without a wish of its own, a reader gets a token with this much life left, or a third of a short life.
DEFAULT_MIN_TTL = timedelta(seconds=30)
# Record reads at most every 12 hours, so that reads stay cheap.
READ_NOTICE = timedelta(hours=12)


def default_min_ttl(expires_at: datetime | None, obtained_at: datetime | None) -> timedelta:
    """The life that is left to a token by default.

    Renewal in time always leaves this much.
    """
    if expires_at is None or obtained_at is None:
        return DEFAULT_MIN_TTL
    return min(DEFAULT_MIN_TTL, max((expires_at - obtained_at) / 3, timedelta(0)))
