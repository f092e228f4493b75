"""Retries with full jitter, and a common pause after 429."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from worker.auth0.errors import Auth0Error, Auth0RateLimited, Auth0Unreachable
from worker.auth0.field_types import parse_seconds

# Others, such as 501, are not temporary.
RETRIED_STATUSES = frozenset({500, 502, 503, 504})

# A rate limit is reset within seconds to hours; a longer time is in another unit.
MAX_ANNOUNCED_SECONDS = 86_400.0

Clock = Callable[[], datetime]
Sleep = Callable[[float], Awaitable[None]]

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and for how long, one call is retried.

    Attributes:
        max_attempts: the most attempts of a call without an answer or with a 5xx.
        base_seconds: upper bound of the first backoff; it doubles with each attempt.
        max_wait_seconds: how long one call waits for 429s in all; a longer announced wait fails at once.
    """

    max_attempts: int = 5
    base_seconds: float = 0.5
    max_wait_seconds: float = 60.0

    def backoff(self, attempt: int) -> float:
        """Return the wait after this attempt (from 1), in seconds.

        It is full jitter under a doubling bound.
        """
        bound = self.base_seconds * 2 ** min(attempt - 1, 16)
        return random.uniform(0, min(self.max_wait_seconds, bound))  # noqa: S311  # no secret


def read_retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """Return how many seconds a 429 asks for, else None.

    Source: RFC 9110 section 10.2.3 (``Retry-After``: seconds or a date); Auth0, "Rate Limit Headers"
    (``x-ratelimit-reset``: Unix seconds when the next tokens are added).
    """
    after = headers.get("retry-after", "")
    wait = parse_seconds(after)
    if wait is None and after:
        wait = _until_date(after, now)
    if wait is None:
        reset = parse_seconds(headers.get("x-ratelimit-reset"))
        wait = None if reset is None else max(0.0, reset - now.timestamp())
    return wait if wait is not None and wait <= MAX_ANNOUNCED_SECONDS else None


def _until_date(date: str, now: datetime) -> float | None:
    try:
        until = parsedate_to_datetime(date)
        return max(0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - now.timestamp())
    except (ValueError, OverflowError, TypeError):
        return None


class Retrier:
    """Retries one client's calls, and keeps their common pause."""

    def __init__(self, policy: RetryPolicy, clock: Clock = utc_now, sleep: Sleep = asyncio.sleep) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._paused_until: datetime | None = None

    def attempts(self, domain: str, endpoint: str) -> AsyncRetrying:
        """Iterate over the attempts of one call.

        The last error is raised as it is.
        """

        def log_retry(state: RetryCallState) -> None:
            error = _error_of(state)
            log.info(
                "api_call.retried",
                domain=domain,
                endpoint=endpoint,
                status=error.status if isinstance(error, Auth0Error) else None,
                attempt=state.attempt_number,
                wait=round(state.upcoming_sleep, 3),
            )

        return AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception(_is_transient),
            wait=self._wait_before,
            stop=self._is_enough,
            before_sleep=log_retry,
            reraise=True,
        )

    async def wait_for_pause(self, where: str) -> None:
        """Wait until the pause after a 429 is over.

        Another 429 meanwhile extends it.

        Raises:
            Auth0RateLimited: it lasts longer than a call waits.
        """
        slept_for = None
        while (until := self._paused_until) and until != slept_for:
            left = (until - self._clock()).total_seconds()
            if left <= 0:
                return
            if left > self._policy.max_wait_seconds:
                raise Auth0RateLimited.spent(where, left)
            slept_for = until
            # Each call waits a little longer than the pause, so that they do not all come back at the same time.
            await self._sleep(left + self._policy.backoff(1))

    def record_rate_limit(
        self, where: str, response: httpx.Response, attempt: int, code: str | None
    ) -> Auth0RateLimited:
        """Begin or extend the pause; return this attempt's error."""
        now = self._clock()
        wait = read_retry_after(response.headers, now)
        longest = self._policy.max_wait_seconds
        if wait is None or wait < longest:
            # Jitter is added, because calls that come at the same time would only be refused again.
            wait = min(longest, (wait or 0.0) + self._policy.backoff(attempt))
        until = now + timedelta(seconds=wait)
        self._paused_until = max(until, self._paused_until or until)
        return Auth0RateLimited.spent(where, wait, code=code)

    def _wait_before(self, state: RetryCallState) -> float:
        error = _error_of(state)
        if isinstance(error, Auth0RateLimited):
            return error.retry_after
        return self._policy.backoff(state.attempt_number)

    def _is_enough(self, state: RetryCallState) -> bool:
        # For a 429 the waiting time is limited, not the attempts: with many calls and a small limit, most are refused often.
        if isinstance(_error_of(state), Auth0RateLimited):
            longest = self._policy.max_wait_seconds
            return state.idle_for >= longest or state.idle_for + state.upcoming_sleep > longest
        return state.attempt_number >= self._policy.max_attempts


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, Auth0Unreachable):
        return error.status is None or error.status in RETRIED_STATUSES
    return isinstance(error, Auth0RateLimited)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
