"""Decides when a grant is next due for renewal.

Without I/O: time and jitter are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# A token of an hour is renewed ten minutes before it ends: time for two missed ticks and a short outage of the provider.
MAX_MARGIN = timedelta(minutes=10)
# A long-lived token is renewed with a twelfth of its life left (five days of sixty), because some providers can only
# exchange a token that is still valid.
LONG_LIFE_RESERVE_DIVISOR = 12
# Tokens of unknown life are renewed soon, spread over this time so that a first sync does not make all of them due at once.
UNKNOWN_LIFE_STAGGER = timedelta(minutes=5)
# The assumed life of a renewed token whose provider never says how long its tokens live.
UNKNOWN_LIFE = timedelta(minutes=45)

# How long a refresh token may be unused if nobody says: the shortest default among the known providers.
ASSUMED_IDLE_LIFE = timedelta(days=7)
# A refresh token is used again after half of its idle life at the earliest, and with a quarter of it left at the latest.
KEEP_ALIVE_FRACTION = 3 / 4
# A refresh token whose end renewals do not extend is used again sooner and sooner towards that end, but not below this.
MIN_KEEP_ALIVE = timedelta(minutes=1)

FIRST_BACKOFF = timedelta(seconds=5)
MAX_BACKOFF = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class RenewalPolicy:
    """How a connection's grants are kept fresh.

    Attributes:
        read_window: a grant that was read within it is kept fresh, others are only kept alive; None keeps all fresh.
        idle_life: how long a refresh token may be unused; None if unknown.
        keep_alive: the operator's limit after which a refresh token must be used; None for none.
        absolute_life: how long after the consent a refresh token ends at the latest, if known.
        margin: how long before the end to renew; None for the usual margin.
    """

    read_window: timedelta | None = None
    idle_life: timedelta | None = None
    keep_alive: timedelta | None = None
    absolute_life: timedelta | None = None
    margin: timedelta | None = None

    def is_dormant(self, last_read_at: datetime | None, at: datetime) -> bool:
        """Return whether nobody has read the grant recently."""
        if self.read_window is None:
            return False
        return last_read_at is None or last_read_at + self.read_window < at


EAGER = RenewalPolicy()
"""Keeps all grants fresh, with the usual margin."""


def margin(life: timedelta, wanted: timedelta | None = None) -> timedelta:
    """Return how long before its end a token is renewed.

    A wanted margin is limited to a third of the life.
    """
    if wanted is not None:
        return min(wanted, life / 3)
    return max(min(life / 3, MAX_MARGIN), life / LONG_LIFE_RESERVE_DIVISOR)


def fresh_due_at(
    expires_at: datetime | None, obtained_at: datetime, jitter: float, policy: RenewalPolicy = EAGER
) -> datetime:
    """Return when to renew a token to keep it fresh."""
    life = UNKNOWN_LIFE if expires_at is None else max(expires_at - obtained_at, timedelta(0))
    return obtained_at + life - margin(life, policy.margin) * (1 + jitter / 2)


def keep_alive_due_at(
    obtained_at: datetime, jitter: float, policy: RenewalPolicy, refresh_expires_at: datetime | None = None
) -> datetime:
    """Return when to use a refresh token to keep it.

    Args:
        obtained_at: when it was last used, or obtained.
        jitter: 0 to 1; it spreads tokens that were obtained together over a third of the time.
        refresh_expires_at: its end, if the provider names it.
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
        expires_at: the token's end; None if the provider does not say.
        obtained_at: when its request was sent.
        jitter: 0 to 1; it spreads tokens that were obtained together over half a margin.
        policy: how the connection's grants are kept fresh.
        last_read_at: when the grant was last read; None if never, or not recorded.
        refresh_expires_at: the refresh token's end, if the provider names it.
    """
    fresh = fresh_due_at(expires_at, obtained_at, jitter, policy)
    is_dormant = policy.is_dormant(last_read_at, fresh)
    if not (is_dormant or policy.idle_life or policy.keep_alive or refresh_expires_at):
        return fresh
    alive = keep_alive_due_at(obtained_at, jitter, policy, refresh_expires_at)
    return alive if is_dormant else min(fresh, alive)


def after_sync(
    expires_at: datetime | None,
    obtained_at: datetime | None,
    now: datetime,
    jitter: float,
    policy: RenewalPolicy = EAGER,
    last_read_at: datetime | None = None,
) -> datetime:
    """Return when a grant that was just ingested is due.

    A token of unknown end is due soon, unless the grant is dormant.
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
        attempts: failures in a row, including this one.
        now: the time of the failure.
        jitter: 0 to 1.
        retry_after: seconds that the provider asked to wait.
    """
    ceiling = min(FIRST_BACKOFF * 2.0 ** min(attempts, 20), MAX_BACKOFF)
    wait = max(FIRST_BACKOFF, ceiling * jitter)
    return now + max(wait, timedelta(seconds=retry_after or 0))
