"""A tenant's token buckets in Redis, shared by all processes.

Each is a hash of numbers under ``token-vault:budget:<tenant>:<limit>``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from token_vault.secret import Secret
from worker.auth0.http.retries import Clock
from worker.auth0.ratelimit.plans import Limit
from worker.redis_address import RedisAddress
from worker.redis_clients import aclose, make_async_client

# A Redis that takes longer to answer costs more time than it saves.
REDIS_TIMEOUT_SECONDS = 0.25
# After a failure Redis is not used for this time, so that not every call waits for it.
REDIS_RETRY_SECONDS = 1.0

SCRIPT = files("worker.auth0.ratelimit").joinpath("shared_bucket.lua").read_text(encoding="utf-8")

log = structlog.get_logger(__name__)


class RedisBuckets:
    """Runs the bucket script while Redis can be reached.

    Args:
        tenant: its name in the settings.
        url: of Redis.
        share: of each limit, left to other programs, from 0 to below 1.
        clock: None for the clock of Redis, which is the same for all processes.
        now: returns seconds of this process's clock, of which only differences matter.

    Raises:
        ConfigurationError: ``url`` is not an address of Redis.
    """

    def __init__(
        self, tenant: str, url: Secret, *, share: float, clock: Clock | None, now: Callable[[], float]
    ) -> None:
        self._tenant, self._share, self._clock, self._now = tenant, share, clock, now
        self._redis = _connect(url)
        self._script = self._redis.register_script(SCRIPT)
        self._away_until: float | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        await aclose(self._redis)

    async def run(self, name: str, limit: Limit, *arguments: object) -> list[str] | None:
        """Run the script on a limit's bucket; None without Redis."""
        if self._is_away():
            return None
        now = "" if self._clock is None else f"{self._clock().timestamp():.6f}"
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
                answer: list[str] = await self._script(
                    keys=[self._key(name)],
                    args=[now, limit.per_second, limit.burst, self._share, *map(str, arguments)],
                )
        except (RedisError, OSError) as error:
            self._leave_alone(error)
            return None
        if self._away_until is not None:
            self._away_until = None
            log.info("rate_limit.sharing_restored", tenant=self._tenant)
        return answer

    async def read_pause(self, name: str) -> float | None:
        """Return when the last pause ends; None without Redis."""
        if self._is_away():
            return None
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
                pause = await self._redis.hget(self._key(name), "pause")
        except (RedisError, OSError) as error:
            self._leave_alone(error)
            return None
        try:
            return None if pause is None else float(pause)
        except ValueError:  # another program wrote it
            return None

    def _key(self, name: str) -> str:
        return f"token-vault:budget:{self._tenant}:{name}"

    def _is_away(self) -> bool:
        return self._away_until is not None and self._now() < self._away_until

    def _leave_alone(self, error: Exception) -> None:
        if self._away_until is None:
            # Only the error's type: its message may contain the address with its password.
            log.warning("rate_limit.sharing_lost", tenant=self._tenant, error=type(error).__name__)
        self._away_until = self._now() + REDIS_RETRY_SECONDS


def _connect(url: Secret) -> redis.asyncio.Redis:
    return make_async_client(
        RedisAddress.parse(url),
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
