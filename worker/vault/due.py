"""When a grant is next to be renewed. Pure: time and chance come in as arguments."""

from __future__ import annotations

from datetime import datetime, timedelta

# An hour's token is renewed ten minutes before it ends: two missed ticks and a provider's short outage fit in.
MARGIN_CAP = timedelta(minutes=10)
# A long-lived token keeps a twelfth of its life in reserve: five days of sixty, for a provider that can only
# exchange a token that still lives.
LONG_LIFE_PART = 12
# Tokens of unknown life are renewed soon, spread so that a first sync does not make them all due at once.
UNKNOWN_SPREAD = timedelta(minutes=5)
# A provider that never says how long its tokens live is asked again after this time.
UNKNOWN_LIFE = timedelta(minutes=45)
# Without a wish of its own, a reader gets a token with this much life left, or a third of a short life.
DEFAULT_MIN_TTL = timedelta(seconds=30)

BACKOFF_FIRST = timedelta(seconds=5)
BACKOFF_CAP = timedelta(minutes=30)


def margin(life: timedelta) -> timedelta:
    """How long before its end a token of this life is renewed."""
    return max(min(life / 3, MARGIN_CAP), life / LONG_LIFE_PART)


def after_renewal(expires_at: datetime | None, obtained_at: datetime, chance: float) -> datetime:
    """When a token just obtained from its provider is due.

    Args:
        expires_at: its end, None where the provider did not say.
        obtained_at: when the request for it was sent.
        chance: 0 to 1, uniform; spreads tokens obtained together over half a margin.
    """
    life = UNKNOWN_LIFE if expires_at is None else max(expires_at - obtained_at, timedelta(0))
    return obtained_at + life - margin(life) * (1 + chance / 2)


def after_sync(
    expires_at: datetime | None, obtained_at: datetime | None, now: datetime, chance: float
) -> datetime:
    """When a renewable token just taken from Auth0 is due; an unknown end means soon."""
    if expires_at is None or obtained_at is None:
        return now + UNKNOWN_SPREAD * chance if expires_at is None else now
    return after_renewal(expires_at, obtained_at, chance)


def after_failure(attempts: int, now: datetime, chance: float, retry_after: float | None = None) -> datetime:
    """When to try again after a failure: exponential backoff with full jitter, never before ``retry_after``.

    Args:
        attempts: failures in a row, this one included.
        now: the time of the failure.
        chance: 0 to 1, uniform.
        retry_after: seconds the provider asked for.
    """
    ceiling = min(BACKOFF_FIRST * 2.0 ** min(attempts, 20), BACKOFF_CAP)
    wait = max(BACKOFF_FIRST, ceiling * chance)
    return now + max(wait, timedelta(seconds=retry_after or 0))


def default_min_ttl(expires_at: datetime | None, obtained_at: datetime | None) -> timedelta:
    """The life a reader gets that asks for none in particular: what renewal in time always leaves."""
    if expires_at is None or obtained_at is None:
        return DEFAULT_MIN_TTL
    return min(DEFAULT_MIN_TTL, max((expires_at - obtained_at) / 3, timedelta(0)))
