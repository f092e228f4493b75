"""How much life a token must have left to be served."""

from __future__ import annotations

from datetime import datetime, timedelta

# Without a wish of its own, a reader gets a token with this much life left, or a third of a short life.
DEFAULT_MIN_TTL = timedelta(seconds=30)
# A read is noted once in this time: notes are coarse, so that reading stays reading.
READ_NOTICE = timedelta(hours=12)


def default_min_ttl(expires_at: datetime | None, obtained_at: datetime | None) -> timedelta:
    """The life a reader gets that asks for none in particular: what renewal in time always leaves."""
    if expires_at is None or obtained_at is None:
        return DEFAULT_MIN_TTL
    return min(DEFAULT_MIN_TTL, max((expires_at - obtained_at) / 3, timedelta(0)))
