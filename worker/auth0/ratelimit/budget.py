"""One rate limit budget for all calls to a tenant.

Each call first takes a slot of a token bucket. The buckets are in Redis, one for each limit of the plan; without Redis,
each process uses a small bucket of its own. For the reasons see docs/adr/0013.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx
import structlog

from token_vault.secret import Secret
from worker import instruments
from worker.auth0.errors import Auth0RateLimited
from worker.auth0.field_types import parse_seconds
from worker.auth0.http.retries import Clock, Sleep
from worker.auth0.ratelimit.bucket import BucketSlot, BucketTerms, ObservedLimits, TokenBucket
from worker.auth0.ratelimit.plans import PLANS, Limit, Plan, presume_plan
from worker.auth0.ratelimit.redis_buckets import RedisBuckets

DEFAULT_SHARE = 0.2
"""The share of each limit that is left to the operator's other programs."""

# Without Redis, each process uses the budget divided by this number.
ASSUMED_WORKER_PROCESSES = 4
# How far in the future bulk calls may take slots: urgent calls wait behind them.
BULK_HORIZON_SECONDS = 0.25
# The most tokens kept for urgent calls: keeping more would delay bulk calls.
MAX_RESERVED_CALLS = 5.0
# The longest pause, also in the script in Redis.
MAX_PAUSE_SECONDS = 900.0
# A horizon in the past reads the bucket without taking a slot.
LOOK_ONLY_HORIZON = -1.0
# A bulk call that has waited this long becomes urgent, so that it does not starve.
MAX_BULK_WAIT_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass
class _SharedLimit:
    """One limit of the plan, as this process knows it.

    Attributes:
        name: of the limit.
        limit: rate and size for all processes together.
        local: this process's bucket, used while Redis is away.
        bulk_turn: held by the process's one bulk call that may take a slot.
        observed: Auth0's headers since the last slot.
        has_warned: whether the log already says that the tenant's plan is another.
    """

    name: str
    limit: Limit
    local: TokenBucket
    bulk_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    observed: ObservedLimits | None = None
    has_warned: bool = False

    @property
    def reserve(self) -> float:
        """Tokens that bulk calls leave for urgent ones."""
        return min(self.limit.burst / 4, MAX_RESERVED_CALLS) if self.limit.burst >= 4 else 0.0

    @property
    def horizon(self) -> float:
        """How far ahead bulk calls take slots, in seconds.

        At least to the next slot.
        """
        return max(BULK_HORIZON_SECONDS, 1 / self.limit.per_second)


@dataclass(frozen=True)
class RateLimitPermit:
    """The right to make one call; pass it to ``record_answer``.

    Attributes:
        limit: the name of the limit that counts the call.
        slot: its slot of the bucket.
        shared: whether that is the bucket in Redis.
    """

    limit: str
    slot: BucketSlot
    shared: bool


class RateLimitBudget:
    """Keeps the calls to one tenant within its plan.

    Args:
        tenant: its name in the settings.
        plan: the tenant's limits.
        share: of each limit, left to other programs, from 0 to below 1.
        presumed: the operator has not named the plan: it is replaced by the plan whose limits Auth0's answers show, and
            a tenant whose answers show none counts as unlimited.
        redis_url: None for a budget of this process alone.
        clock: None for the clock of Redis, which is the same for all processes; given to simulate time.
        sleep: waits for a number of seconds.
        max_wait_seconds: a call that would have to wait longer is refused.

    Raises:
        ConfigurationError: ``redis_url`` is not an address of Redis.
    """

    def __init__(
        self,
        tenant: str,
        plan: Plan,
        *,
        share: float = DEFAULT_SHARE,
        presumed: bool = False,
        redis_url: Secret | None = None,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
        max_wait_seconds: float = 60.0,
    ) -> None:
        self._tenant, self._plan, self._share = tenant, plan, share
        self._clock, self._sleep, self._max_wait = clock, sleep, max_wait_seconds
        self._redis = (
            None if redis_url is None
            else RedisBuckets(tenant, redis_url, share=share, clock=clock, now=self._now)
        )  # fmt: skip
        self._has_started, self._is_presumed = False, presumed
        self.is_unlimited = False
        self._limits = self._limits_of(plan)

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def acquire(self, group: str, *, urgent: bool = False, where: str = "Auth0") -> RateLimitPermit:
        """Wait for a slot.

        Args:
            group: of the endpoint, a key of ``Plan.limits``.
            urgent: somebody waits for this call, so it takes precedence over bulk calls.
            where: named in the error.

        Raises:
            Auth0RateLimited: the wait would be longer than ``max_wait_seconds``.
        """
        limit = self._limits[self._plan.limit_name(group)]
        await self._start_buckets()
        while True:
            if urgent:
                permit = await self._take_slot(limit, BucketTerms(0.0, self._max_wait))
                self._refuse_long_wait(permit, where)
            else:
                permit = await self._take_bulk_slot(limit, where)
            if permit.slot.wait <= 0:
                return permit
            await self._sleep(permit.slot.wait)
            instruments.auth0_waits.labels(self._tenant, limit.name).inc(permit.slot.wait)
            if not await self._was_paused_since(limit, permit):
                return permit

    async def pause(self, group: str, seconds: float) -> None:
        """Stop a limit's calls for a while, after a 429."""
        limit = self._limits[self._plan.limit_name(group)]
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        limit.local.pause(self._now(), seconds)
        await self._run(limit, "pause", seconds)

    def record_answer(self, permit: RateLimitPermit, headers: httpx.Headers, group: str = "other") -> None:
        """Keep Auth0's level of its bucket for the next slot.

        Args:
            permit: of the call that was answered.
            headers: of the answer.
            group: of the call.

        Source: Auth0, "Rate Limit Headers". ``x-ratelimit-reset`` is used only for the pause after a 429: in whole
        seconds of another clock, it is too coarse for single tokens.
        """
        limit = self._limits.get(permit.limit)
        burst, remaining = (
            parse_seconds(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining")
        )
        if limit is None or self._adopt_shown_plan(group, burst):
            return
        if burst:
            self._warn_if_plan_differs(limit, burst)
        if remaining is None:
            return
        instruments.auth0_calls_left.labels(self._tenant, limit.name).set(remaining)
        observed = ObservedLimits(remaining, burst or 0.0, permit.slot.number, permit.slot.at)
        if permit.shared and (limit.observed is None or limit.observed.slot <= observed.slot):
            limit.observed = observed

    def _adopt_shown_plan(self, group: str, burst: float | None) -> bool:
        """Replace a presumed plan with the one that Auth0 shows."""
        if not self._is_presumed or group == "other":  # token requests have no such headers
            return False
        if burst is None:
            self.is_unlimited = True
            log.info("rate_limit.absence_presumed", tenant=self._tenant)
            return True
        shown = PLANS[presume_plan(group, burst)]
        if shown is self._plan:
            return False
        log.warning("rate_limit.plan_presumed", tenant=self._tenant, plan=shown.name, observed=burst)
        self._plan, self._is_presumed = shown, False
        self._limits = self._limits_of(shown)
        return True

    async def _start_buckets(self) -> None:
        """Let all buckets fill from this process's first call on.

        A bucket begins to fill when it is first read.
        """
        if not self._has_started:
            self._has_started = True
            for limit in self._limits.values():
                await self._take_slot(limit, BucketTerms(0.0, LOOK_ONLY_HORIZON))

    async def _take_bulk_slot(self, limit: _SharedLimit, where: str) -> RateLimitPermit:
        """Take a bulk call's slot, one call at a time."""
        bulk_terms = BucketTerms(limit.reserve, limit.horizon)
        async with limit.bulk_turn:
            waited = 0.0
            while True:
                terms = bulk_terms if waited < MAX_BULK_WAIT_SECONDS else BucketTerms(0.0, self._max_wait)
                permit = await self._take_slot(limit, terms)
                if permit.slot.number:
                    return permit
                self._refuse_long_wait(permit, where)
                ahead = max(permit.slot.wait - limit.horizon, 0.001)
                await self._sleep(ahead)
                # During a pause all calls wait alike, so that time does not make a bulk call urgent.
                if permit.slot.pause <= permit.slot.at - permit.slot.wait:
                    waited += ahead

    async def _take_slot(self, limit: _SharedLimit, terms: BucketTerms) -> RateLimitPermit:
        observed, limit.observed = limit.observed, None
        shown = (
            ("", "", "", "") if observed is None
            else (observed.remaining, observed.limit, observed.slot, observed.at)
        )  # fmt: skip
        answer = await self._run(limit, "take", terms.keep, terms.horizon, *shown)
        if answer is None:
            slot = limit.local.take(self._now(), _terms_for_local(terms, limit.local))
            return RateLimitPermit(limit.name, slot, shared=False)
        wait, number, at, pause = answer
        slot = BucketSlot(float(wait), int(number), float(at), float(pause))
        return RateLimitPermit(limit.name, slot, shared=True)

    async def _was_paused_since(self, limit: _SharedLimit, permit: RateLimitPermit) -> bool:
        """Whether any process got a 429 while this call waited."""
        if not permit.shared:
            return limit.local.pause_until != permit.slot.pause
        pause = None if self._redis is None else await self._redis.read_pause(limit.name)
        return pause is not None and pause != permit.slot.pause

    async def _run(self, limit: _SharedLimit, *arguments: object) -> list[str] | None:
        return None if self._redis is None else await self._redis.run(limit.name, limit.limit, *arguments)

    def _now(self) -> float:
        """Seconds of this process's clock; only differences matter."""
        return time.monotonic() if self._clock is None else self._clock().timestamp()

    def _limits_of(self, plan: Plan) -> dict[str, _SharedLimit]:
        found = {}
        for name, limit in plan.limits.items():
            ours = limit.without(self._share)
            alone = Limit(
                ours.per_second / ASSUMED_WORKER_PROCESSES, max(1.0, ours.burst / ASSUMED_WORKER_PROCESSES)
            )
            found[name] = _SharedLimit(name, ours, TokenBucket(alone))
        return found

    def _refuse_long_wait(self, permit: RateLimitPermit, where: str) -> None:
        if permit.slot.number == 0 and permit.slot.wait > self._max_wait:
            raise Auth0RateLimited.spent(where, permit.slot.wait)

    def _warn_if_plan_differs(self, limit: _SharedLimit, burst: float) -> None:
        planned = self._plan.limits[limit.name].burst
        if limit.has_warned or burst == planned:
            return
        limit.has_warned = True
        log.warning(
            "rate_limit.plan_contradicted",
            tenant=self._tenant,
            plan=self._plan.name,
            limit=limit.name,
            burst=planned,
            observed=burst,
        )


def _terms_for_local(terms: BucketTerms, local: TokenBucket) -> BucketTerms:
    """Return the terms of a local bucket, without a reserve."""
    if terms.horizon < 0:
        return terms
    return BucketTerms(0.0, max(terms.horizon, 1 / local.limit.per_second))
