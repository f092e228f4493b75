"""When a grant is next to be renewed. Pure: time and chance come in as arguments."""

from __future__ import annotations

from dataclasses import dataclass
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

# How long a refresh token may lie unused where nobody says it: the shortest default among the known providers.
ASSUMED_IDLE = timedelta(days=7)
# A refresh token is used again after half of its idle life at the earliest, and with a quarter of it left.
KEEP_ALIVE_PART = 3 / 4
# A refresh token whose end no renewal puts off is used again ever sooner as that end comes, to here.
KEEP_ALIVE_FLOOR = timedelta(minutes=1)

BACKOFF_FIRST = timedelta(seconds=5)
BACKOFF_CAP = timedelta(minutes=30)


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
        """Whether a grant that was last read then is not kept fresh at that time."""
        if self.read_window is None:
            return False
        return last_read_at is None or last_read_at + self.read_window < at


EAGER = RenewalPolicy()
"""Always fresh, for as long as is usual."""


def margin(life: timedelta, wanted: timedelta | None = None) -> timedelta:
    """How long before its end a token of this life is renewed; what is wanted is cut to a third of the life."""
    if wanted is not None:
        return min(wanted, life / 3)
    return max(min(life / 3, MARGIN_CAP), life / LONG_LIFE_PART)


def while_fresh(
    expires_at: datetime | None, obtained_at: datetime, chance: float, policy: RenewalPolicy = EAGER
) -> datetime:
    """When a token obtained then is due, so that it is always fresh."""
    life = UNKNOWN_LIFE if expires_at is None else max(expires_at - obtained_at, timedelta(0))
    return obtained_at + life - margin(life, policy.margin) * (1 + chance / 2)


def while_alive(
    obtained_at: datetime, chance: float, policy: RenewalPolicy, refresh_expires_at: datetime | None = None
) -> datetime:
    """When a refresh token last used then has to be used again, so that it does not die of idleness.

    Args:
        obtained_at: when it was last used, or came.
        chance: 0 to 1, uniform; spreads tokens obtained together over a third of the time.
        refresh_expires_at: its end, where the provider said so.
    """
    told = None if refresh_expires_at is None else refresh_expires_at - obtained_at
    lives = [life for life in (policy.idle_life, told) if life is not None] or [ASSUMED_IDLE]
    latest = min(lives) * KEEP_ALIVE_PART
    if policy.keep_alive is not None:
        latest = min(latest, policy.keep_alive)
    return obtained_at + max(latest * (1 - chance / 3), KEEP_ALIVE_FLOOR)


def after_renewal(
    expires_at: datetime | None,
    obtained_at: datetime,
    chance: float,
    policy: RenewalPolicy = EAGER,
    *,
    last_read_at: datetime | None = None,
    refresh_expires_at: datetime | None = None,
) -> datetime:
    """When a grant is due whose token was just obtained from its provider.

    Args:
        expires_at: the token's end, None where the provider did not say.
        obtained_at: when the request for it was sent.
        chance: 0 to 1, uniform; spreads tokens obtained together over half a margin.
        policy: how the connection's grants are kept.
        last_read_at: when the grant was last read, as far as is known.
        refresh_expires_at: the refresh token's end, where the provider said so.
    """
    fresh = while_fresh(expires_at, obtained_at, chance, policy)
    alive = while_alive(obtained_at, chance, policy, refresh_expires_at)
    if policy.is_dormant(last_read_at, fresh):
        return alive
    known = policy.idle_life or policy.keep_alive or refresh_expires_at
    return min(fresh, alive) if known else fresh


def after_sync(
    expires_at: datetime | None,
    obtained_at: datetime | None,
    now: datetime,
    chance: float,
    policy: RenewalPolicy = EAGER,
    last_read_at: datetime | None = None,
) -> datetime:
    """When a renewable token just taken from Auth0 is due; an unknown end means soon, unless nobody reads it."""
    if policy.is_dormant(last_read_at, now):
        return while_alive(obtained_at or now, chance, policy)
    if expires_at is None or obtained_at is None:
        return now + UNKNOWN_SPREAD * chance if expires_at is None else now
    return after_renewal(expires_at, obtained_at, chance, policy, last_read_at=last_read_at)


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
