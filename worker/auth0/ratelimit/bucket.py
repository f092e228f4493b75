"""A token bucket that gives out slots.

``shared_bucket.lua`` implements the same in Redis for all processes; without Redis, each process uses a ``TokenBucket``.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.auth0.ratelimit.plans import Limit


@dataclass(frozen=True)
class BucketTerms:
    """Conditions for a slot.

    Attributes:
        keep: tokens that must stay in the bucket for more urgent calls.
        horizon: how far in the future a slot may be, in seconds; a later one is not given yet.
    """

    keep: float
    horizon: float


@dataclass(frozen=True)
class ObservedLimits:
    """Auth0's rate limit headers of one answer.

    Attributes:
        remaining: tokens in Auth0's bucket after that call.
        limit: its most tokens; 0 if Auth0 does not say.
        slot: the number of that call's slot.
        at: when that call was made, in seconds.
    """

    remaining: float
    limit: float
    slot: int
    at: float


@dataclass(frozen=True)
class BucketSlot:
    """An answer of the bucket.

    Attributes:
        wait: seconds until the slot, or until there would be one.
        number: counts the slots; 0 if none is given yet.
        at: when the slot is, in seconds of the bucket's clock.
        pause: when the last pause ends, by the bucket's clock; a newer pause makes the slot void.
    """

    wait: float
    number: int
    at: float
    pause: float


class TokenBucket:
    """A token bucket whose future tokens can be reserved.

    It starts empty, as the level of Auth0's own bucket is not known.

    Args:
        limit: its rate and size.
        left: the share of Auth0's bucket that is left to other programs, from 0 to 1.
    """

    def __init__(self, limit: Limit, left: float = 0.0) -> None:
        self.limit = limit
        self._left = left
        self._burst = limit.burst
        self._level = 0.0
        self._at: float | None = None
        self._slots = 0
        self.pause_until = 0.0

    def take(self, now: float, terms: BucketTerms, observed: ObservedLimits | None = None) -> BucketSlot:
        """Give the next slot, now or in the future.

        Args:
            now: in seconds.
            terms: the caller's conditions.
            observed: lowers the level if Auth0's bucket has fewer tokens.
        """
        self._refill(now)
        if observed is not None and observed.slot <= self._slots:
            self._lower(now, observed)
        rate = self.limit.per_second
        lacking = max(0.0, min(1 + terms.keep, self._burst) - self._level)
        wait = max(0.0, self.pause_until - now) + lacking / rate
        if wait > terms.horizon:
            return BucketSlot(wait, 0, now + wait, self.pause_until)
        self._level -= 1
        self._slots += 1
        return BucketSlot(wait, self._slots, now + wait, self.pause_until)

    def pause(self, now: float, seconds: float) -> None:
        """Give no slots for some seconds, then start empty.

        Auth0's bucket is empty at that time as well.
        """
        self._refill(now)
        self._level = min(self._level, 0.0)
        self.pause_until = max(self.pause_until, now + seconds)

    def _refill(self, now: float) -> None:
        since = now if self._at is None else max(self._at, self.pause_until)
        self._level = min(self._burst, self._level + max(0.0, now - since) * self.limit.per_second)
        self._at = now

    def _lower(self, now: float, observed: ObservedLimits) -> None:
        """Lower the level to Auth0's, minus the slots given since."""
        if observed.limit >= 1:
            self._burst = min(self.limit.burst, Limit(0, observed.limit).without(self._left).burst)
        since = max(observed.at, self.pause_until)
        gained = max(0.0, now - since) * self.limit.per_second
        others = observed.limit * self._left
        level = observed.remaining - others + gained - (self._slots - observed.slot)
        self._level = min(self._level, self._burst, level)
