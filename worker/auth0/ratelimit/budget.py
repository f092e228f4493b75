"""One budget for all calls to a tenant, whoever makes them: a slot in a token bucket before each call.

Buckets are in Redis, one for each limit of the plan, under ``token-vault:budget:<tenant>:<group>``; they hold
numbers only. Without Redis each process goes by a small bucket of its own. Why it is so: docs/adr/0013.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from importlib.resources import files

import httpx
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.auth0.errors import Auth0RateLimited
from worker.auth0.http.retries import Clock, Sleep
from worker.auth0.models import parse_seconds
from worker.auth0.ratelimit.bucket import BucketSlot, BucketTerms, ObservedLimits, TokenBucket
from worker.auth0.ratelimit.plans import PLANS, Limit, Plan, presume_plan

DEFAULT_SHARE = 0.2
"""Of each limit, what is left to the operator's other programs."""

# What one process takes without Redis: the budget divided by as many.
ASSUMED_WORKER_PROCESSES = 4
# A Redis that takes longer to answer costs more than it saves; after a failure it is left alone for a while. Seconds.
REDIS_TIMEOUT_SECONDS = 0.25
REDIS_RETRY_SECONDS = 1.0
# How far ahead bulk calls may take slots, in seconds: more urgent calls wait behind these.
BULK_HORIZON_SECONDS = 0.25
# Calls that more urgent ones find ready, at the most: filling it up again holds bulk calls back.
MAX_RESERVED_CALLS = 5.0
# A horizon behind now: the bucket is looked at, and no slot is given.
LOOK_ONLY_HORIZON = -1.0
# After so long, in seconds, a bulk call is as urgent as any: it must not starve.
MAX_BULK_WAIT_SECONDS = 10.0

_SCRIPT = files("worker.auth0").joinpath("shared_bucket.lua").read_text(encoding="utf-8")

_log = structlog.get_logger(__name__)


@dataclass
class _Share:
    """One limit as this process knows it."""

    name: str
    key: str
    limit: Limit
    local: TokenBucket
    bulk: asyncio.Lock = field(default_factory=asyncio.Lock)
    seen: ObservedLimits | None = None
    warned: bool = False

    @property
    def keep(self) -> float:
        """Tokens that bulk calls leave: a quarter, where that is a call at least, up to a handful."""
        return min(self.limit.burst / 4, MAX_RESERVED_CALLS) if self.limit.burst >= 4 else 0.0

    @property
    def horizon(self) -> float:
        """How far ahead a bulk call may take its slot, in seconds: the next one's distance at least."""
        return max(BULK_HORIZON_SECONDS, 1 / self.limit.per_second)


@dataclass(frozen=True)
class RateLimitPermit:
    """Leave to make one call; ``RateLimitBudget.record_answer`` takes it back with the answer's headers.

    Attributes:
        group: the limit that counts the call.
        slot: its slot in the bucket.
        shared: whether that bucket is the one in Redis.
    """

    group: str
    slot: BucketSlot
    shared: bool


class RateLimitBudget:
    """The calls of one tenant, within its plan.

    Args:
        tenant: its name in the settings.
        plan: what Auth0 allows.
        share: what is left to others, from 0 to below 1.
        presumed: nobody has named the plan: it is changed for the one whose limits the answers show, and no budget
            is kept of a tenant that shows none.
        redis_url: None for a budget of this process alone.
        clock: None for the clock of Redis, which is the same for all; given where time is made up.
        sleep: waits for a number of seconds.
        longest: a call that would wait longer is refused, in seconds.

    Raises:
        ConfigurationError: ``redis_url`` is no address of Redis.
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
        longest: float = 60.0,
    ) -> None:
        self._tenant, self._plan, self._share = tenant, plan, share
        self._clock, self._sleep, self._longest = clock, sleep, longest
        self._redis: redis.asyncio.Redis | None = None
        if redis_url is not None:
            self._redis = _redis_at(redis_url)
            self._script = self._redis.register_script(_SCRIPT)
        self._away_until: float | None = None
        self._begun, self._presumed = False, presumed
        self.is_unlimited = False
        self._shares = {name: self._share_of(name, limit) for name, limit in plan.limits.items()}

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def acquire(self, group: str, *, urgent: bool = False, where: str = "Auth0") -> RateLimitPermit:
        """Wait for a slot.

        Args:
            group: of the endpoint, as ``Plan.limits`` names it.
            urgent: somebody waits for this call: it comes before bulk calls.
            where: what the error speaks of.

        Raises:
            Auth0RateLimited: the wait would be longer than ``longest``.
        """
        share = self._shares[self._plan.bucket(group)]
        await self._begin()
        while True:
            if urgent:
                grant = await self._take(share, BucketTerms(0.0, self._longest))
                self._refuse_if_long(grant, where)
            else:
                grant = await self._take_in_turn(share, where)
            if grant.slot.wait <= 0:
                return grant
            await self._sleep(grant.slot.wait)
            if not await self._paused_since(share, grant):
                return grant

    async def _begin(self) -> None:
        """Let all buckets fill from this process's first call on: each is empty until somebody looks at it."""
        if not self._begun:
            self._begun = True
            for share in self._shares.values():
                await self._take(share, BucketTerms(0.0, LOOK_ONLY_HORIZON))

    def record_answer(self, grant: RateLimitPermit, headers: httpx.Headers, group: str = "other") -> None:
        """Note what Auth0 says of its bucket; the next slot is asked for with it.

        Args:
            group: of the call that was answered.

        Source: Auth0, "Rate Limit Headers". ``x-ratelimit-reset`` is left to the pause after a 429: whole
        seconds by another clock say nothing of a single token.
        """
        share = self._shares.get(grant.group)
        limit, remaining = (
            parse_seconds(headers.get(f"x-ratelimit-{name}")) for name in ("limit", "remaining")
        )
        if share is None or self._presume(group, limit):
            return
        if limit:
            self._compare(share, limit)
        if remaining is None:
            return
        seen = ObservedLimits(remaining, limit or 0.0, grant.slot.number, grant.slot.at)
        if grant.shared and (share.seen is None or share.seen.slot <= seen.slot):
            share.seen = seen

    def _presume(self, group: str, limit: float | None) -> bool:
        """Take the plan that an answer shows, where nobody has named one; returns whether another was taken."""
        if not self._presumed or group == "other":  # a token is minted without these headers
            return False
        if limit is None:
            self.is_unlimited = True
            _log.info("auth0.no_limit_shown", tenant=self._tenant)
            return True
        shown = PLANS[presume_plan(group, limit)]
        if shown is self._plan:
            return False
        _log.warning("auth0.plan_presumed", tenant=self._tenant, plan=shown.name, shown=limit)
        self._plan, self._presumed = shown, False
        self._shares = {name: self._share_of(name, each) for name, each in shown.limits.items()}
        return True

    async def pause(self, group: str, wait: float) -> None:
        """Let nobody make calls that this group's limit counts for so many seconds: a 429 came."""
        share = self._shares[self._plan.bucket(group)]
        share.local.pause(self._now(), wait)
        await self._run(share, "pause", wait)

    async def _take_in_turn(self, share: _Share, where: str) -> RateLimitPermit:
        """Take a slot for a bulk call: one at a time in this process, and none far ahead."""
        patient = BucketTerms(share.keep, share.horizon)
        async with share.bulk:
            waited = 0.0
            while True:
                terms = patient if waited < MAX_BULK_WAIT_SECONDS else BucketTerms(0.0, self._longest)
                grant = await self._take(share, terms)
                if grant.slot.number:
                    return grant
                self._refuse_if_long(grant, where)
                ahead = max(grant.slot.wait - share.horizon, 0.001)
                await self._sleep(ahead)
                if grant.slot.pause <= grant.slot.at - grant.slot.wait:  # a pause is nobody's unfairness
                    waited += ahead

    async def _take(self, share: _Share, terms: BucketTerms) -> RateLimitPermit:
        seen, share.seen = share.seen, None
        told = ("", "", "", "") if seen is None else (seen.remaining, seen.limit, seen.slot, seen.at)
        answer = await self._run(share, "take", terms.keep, terms.horizon, *told)
        if answer is None:
            slot = share.local.take(self._now(), _at_local_pace(terms, share.local))
            return RateLimitPermit(share.name, slot, shared=False)
        wait, number, at, pause = answer
        return RateLimitPermit(
            share.name, BucketSlot(float(wait), int(number), float(at), float(pause)), shared=True
        )

    async def _paused_since(self, share: _Share, grant: RateLimitPermit) -> bool:
        """Whether a 429 came to anybody while this call waited for its slot."""
        if not grant.shared:
            return share.local.pause_until != grant.slot.pause
        redis = self._reachable()
        if redis is None:
            return False
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
                pause = await redis.hget(share.key, "pause")
        except (RedisError, OSError) as error:
            self._lose(error)
            return False
        return pause is not None and float(pause) != grant.slot.pause

    async def _run(self, share: _Share, *arguments: object) -> list[str] | None:
        """Run the script; None where Redis does not answer, or there is none."""
        if self._reachable() is None:
            return None
        limit = share.limit
        now = "" if self._clock is None else f"{self._clock().timestamp():.6f}"
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
                answer: list[str] = await self._script(
                    keys=[share.key],
                    args=[now, limit.per_second, limit.burst, self._share, *map(str, arguments)],
                )
        except (RedisError, OSError) as error:
            self._lose(error)
            return None
        if self._away_until is not None:
            self._away_until = None
            _log.info("auth0.budget_shared_again", tenant=self._tenant)
        return answer

    def _reachable(self) -> redis.asyncio.Redis | None:
        away = self._away_until is not None and self._now() < self._away_until
        return None if away else self._redis

    def _lose(self, error: Exception) -> None:
        if self._away_until is None:
            # The kind alone: the message may hold the address with its password.
            _log.warning("auth0.budget_local", tenant=self._tenant, error=type(error).__name__)
        self._away_until = self._now() + REDIS_RETRY_SECONDS

    def _now(self) -> float:
        """Seconds by this process's clock, of which only differences count."""
        return time.monotonic() if self._clock is None else self._clock().timestamp()

    def _share_of(self, name: str, limit: Limit) -> _Share:
        ours = limit.without(self._share)
        alone = Limit(
            ours.per_second / ASSUMED_WORKER_PROCESSES, max(1.0, ours.burst / ASSUMED_WORKER_PROCESSES)
        )
        return _Share(name, f"token-vault:budget:{self._tenant}:{name}", ours, TokenBucket(alone))

    def _refuse_if_long(self, grant: RateLimitPermit, where: str) -> None:
        if grant.slot.number == 0 and grant.slot.wait > self._longest:
            raise Auth0RateLimited(
                f"{where}: the tenant's rate limit is used up for {grant.slot.wait:.1f} s more; "
                "it is shared with every other program of the tenant",
                retry_after=grant.slot.wait,
            )

    def _compare(self, share: _Share, limit: float) -> None:
        if share.warned or limit == self._plan.limits[share.name].burst:
            return
        share.warned = True
        _log.warning(
            "auth0.plan_differs",
            tenant=self._tenant,
            plan=self._plan.name,
            group=share.name,
            burst=self._plan.limits[share.name].burst,
            shown=limit,
        )


def _redis_at(url: Secret) -> redis.asyncio.Redis:
    try:
        return redis.asyncio.Redis.from_url(
            url.reveal(),
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except ValueError:
        pass
    # Outside the except: the error may hold the address with its password.
    raise ConfigurationError("REDIS_URL is not an address of Redis, such as redis://:password@host:6379/0")


def _at_local_pace(terms: BucketTerms, local: TokenBucket) -> BucketTerms:
    """Return the terms of a bucket that is too small to keep anything back."""
    return BucketTerms(0.0, max(terms.horizon, 1 / local.limit.per_second))
