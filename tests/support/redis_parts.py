"""Parts of the program that reach Redis, each on its own."""

from __future__ import annotations

import asyncio

from worker.auth0.ratelimit.redis_buckets import RedisBuckets
from worker.cli.checks import CheckResult
from worker.cli.redis_checks import check_redis
from worker.settings import Settings


def budget(given: Settings) -> bool:
    """Reach it as the rate limit does."""

    async def run() -> bool:
        assert given.redis_url is not None
        buckets = RedisBuckets("t", given.redis_url, share=0, clock=None, now=lambda: 0.0)
        try:
            return bool(await buckets._redis.ping())
        finally:
            await buckets.aclose()

    return asyncio.run(run())


def doctor(given: Settings) -> bool:
    """Have ``doctor`` look at it."""
    [check] = check_redis(given)
    assert check.result is CheckResult.OK, check.message
    return True
