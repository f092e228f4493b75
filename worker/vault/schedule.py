"""When a grant is next to be renewed.

Pure: time and jitter are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# An hour's token is renewed ten minutes before it ends: two missed ticks and a provider's short outage fit in.
MAX_MARGIN = timedelta(minutes=10)
# A long-lived token keeps a twelfth of its life in reserve: five days of sixty, for a provider that can only
# exchange a token that still lives.
LONG_LIFE_RESERVE_DIVISOR = 12
# Tokens of unknown life are renewed soon, spread so that a first sync does not make them all due at once.
UNKNOWN_LIFE_STAGGER = timedelta(minutes=5)
# A provider that never says how long its tokens live is asked again after this time.
UNKNOWN_LIFE = timedelta(minutes=45)

# How long a refresh token may lie unused where nobody says it: the shortest default among the known providers.
ASSUMED_IDLE_LIFE = timedelta(days=7)
# A refresh token is used again after half of its idle life at the earliest, and with a quarter of it left.
KEEP_ALIVE_FRACTION = 3 / 4
# A refresh token whose end no renewal puts off is used again ever sooner as that end comes, to here.
MIN_KEEP_ALIVE = timedelta(minutes=1)

FIRST_BACKOFF = timedelta(seconds=5)
MAX_BACKOFF = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class RenewalPolicy:
    """How a connection's grants are kept.

    Attributes:
        read_window: a grant read within it is kept fresh, another only alive; None keeps every grant fresh.
        idle_life: how long a refresh token may lie unused, None where nobody says it.
        keep_alive: use it after this time at the latest, where the operator says so.
        margin: renew this long before the end, where the usual margin does not serve.
    """

    read_window: timedelta | None = None
    idle_life: timedelta | None = None
    keep_alive: timedelta | None = None
    margin: timedelta | None = None

    def is_dormant(self, last_read_at: datetime | None, at: datetime) -> bool:
        """Return whether nobody reads the grant any more."""
        if self.read_window is None:
            return False
        return last_read_at is None or last_read_at + self.read_window < at


EAGER = RenewalPolicy()
"""Always fresh, for as long as is usual."""


def margin(life: timedelta, wanted: timedelta | None = None) -> timedelta:
    """Return how long before its end a token is renewed.

    A wanted margin is cut to a third of the life.
    """
    if wanted is not None:
        return min(wanted, life / 3)
    return max(min(life / 3, MAX_MARGIN), life / LONG_LIFE_RESERVE_DIVISOR)


def fresh_due_at(
    expires_at: datetime | None, obtained_at: datetime, jitter: float, policy: RenewalPolicy = EAGER
) -> datetime:
    """Return when a token is due to stay fresh."""
    life = UNKNOWN_LIFE if expires_at is None else max(expires_at - obtained_at, timedelta(0))
    return obtained_at + life - margin(life, policy.margin) * (1 + jitter / 2)


def keep_alive_due_at(
    obtained_at: datetime, jitter: float, policy: RenewalPolicy, refresh_expires_at: datetime | None = None
) -> datetime:
    """Return when a refresh token must be used again.

    Else it would die of idleness.

    Args:
        obtained_at: when it was last used, or came.
        jitter: 0 to 1, uniform; spreads tokens obtained together over a third of the time.
        refresh_expires_at: its end, where the provider said so.
    """
    provider_life = None if refresh_expires_at is None else refresh_expires_at - obtained_at
    lives = [life for life in (policy.idle_life, provider_life) if life is not None] or [ASSUMED_IDLE_LIFE]
    latest = min(lives) * KEEP_ALIVE_FRACTION
    if policy.keep_alive is not None:
        latest = min(latest, policy.keep_alive)
    return obtained_at + max(latest * (1 - jitter / 3), MIN_KEEP_ALIVE)


def after_renewal(
    expires_at: datetime | None,
    obtained_at: datetime,
    jitter: float,
    policy: RenewalPolicy = EAGER,
    *,
    last_read_at: datetime | None = None,
    refresh_expires_at: datetime | None = None,
) -> datetime:
    """Return when a grant that was just renewed is due.

    Args:
        expires_at: the token's end, None where the provider did not say.
        obtained_at: when the request for it was sent.
        jitter: 0 to 1, uniform; spreads tokens obtained together over half a margin.
        policy: how the connection's grants are kept.
        last_read_at: when the grant was last read, as far as is known.
        refresh_expires_at: the refresh token's end, where the provider said so.
    """
    fresh = fresh_due_at(expires_at, obtained_at, jitter, policy)
    alive = keep_alive_due_at(obtained_at, jitter, policy, refresh_expires_at)
    if policy.is_dormant(last_read_at, fresh):
        return alive
    known = policy.idle_life or policy.keep_alive or refresh_expires_at
    return min(fresh, alive) if known else fresh


def after_sync(
    expires_at: datetime | None,
    obtained_at: datetime | None,
    now: datetime,
    jitter: float,
    policy: RenewalPolicy = EAGER,
    last_read_at: datetime | None = None,
) -> datetime:
    """Return when a grant that was just ingested is due.

    An unknown end means soon, unless nobody reads it.
    """
    if policy.is_dormant(last_read_at, now):
        return keep_alive_due_at(obtained_at or now, jitter, policy)
    if expires_at is None or obtained_at is None:
        return now + UNKNOWN_LIFE_STAGGER * jitter if expires_at is None else now
    return after_renewal(expires_at, obtained_at, jitter, policy, last_read_at=last_read_at)


def after_failure(attempts: int, now: datetime, jitter: float, retry_after: float | None = None) -> datetime:
    """Return when to try again after a failure.

    Exponential backoff with full jitter, never before ``retry_after``.

    Args:
        attempts: failures in a row, this one included.
        now: the time of the failure.
        jitter: 0 to 1, uniform.
        retry_after: seconds the provider asked for.
    """
    ceiling = min(FIRST_BACKOFF * 2.0 ** min(attempts, 20), MAX_BACKOFF)
    wait = max(FIRST_BACKOFF, ceiling * jitter)
    return now + max(wait, timedelta(seconds=retry_after or 0))
