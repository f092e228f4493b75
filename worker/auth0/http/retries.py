"""When to ask again: retries with full jitter, and one pause that all calls of a client keep after a 429."""

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

# 501 and the like will not pass by waiting.
RETRIED_STATUSES = frozenset({500, 502, 503, 504})

# A rate limit's reset lies seconds to hours ahead; more is a misread unit.
MAX_ANNOUNCED_SECONDS = 86_400.0

Clock = Callable[[], datetime]
Sleep = Callable[[float], Awaitable[None]]

_log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class RetryPolicy:
    """How patient one call is.

    Attributes:
        attempts: how often a call is made at most when no answer or a 5xx comes.
        base: upper bound of the first backoff, in seconds; it doubles with each attempt.
        longest: what one call waits for 429s in all, in seconds; a longer announced wait is not begun.
    """

    attempts: int = 5
    base: float = 0.5
    longest: float = 60.0

    def backoff(self, attempt: int) -> float:
        """Return the wait after this attempt (from 1): full jitter under a doubling bound."""
        bound = self.base * 2 ** min(attempt - 1, 16)
        return random.uniform(0, min(self.longest, bound))  # noqa: S311  # no secret


def read_retry_after(headers: httpx.Headers, now: datetime) -> float | None:
    """Return how many seconds a 429 asks to wait; None where it does not say.

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
    """The rhythm of one client's calls."""

    def __init__(self, retries: RetryPolicy, clock: Clock = utc_now, sleep: Sleep = asyncio.sleep) -> None:
        self._retries = retries
        self._clock = clock
        self._sleep = sleep
        self._paused_until: datetime | None = None

    def attempts(self, domain: str, endpoint: str) -> AsyncRetrying:
        """Iterate over the attempts of one call; the last error is raised as it is."""

        def log(state: RetryCallState) -> None:
            error = _error_of(state)
            _log.info(
                "auth0.retry",
                domain=domain,
                endpoint=endpoint,
                status=error.status if isinstance(error, Auth0Error) else None,
                attempt=state.attempt_number,
                wait=round(state.upcoming_sleep, 3),
            )

        return AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception(_may_pass),
            wait=self._wait,
            stop=self._is_enough,
            before_sleep=log,
            reraise=True,
        )

    async def wait_for_pause(self, where: str) -> None:
        """Wait until the pause that a 429 began is over, also where another 429 prolongs it meanwhile.

        Raises:
            Auth0RateLimited: it lasts longer than a call waits.
        """
        slept_for = None
        while (until := self._paused_until) and until != slept_for:
            left = (until - self._clock()).total_seconds()
            if left <= 0:
                return
            if left > self._retries.longest:
                raise Auth0RateLimited.spent(where, left)
            slept_for = until
            # Each a little later than the pause, so that those who waited do not come back at once.
            await self._sleep(left + self._retries.backoff(1))

    def record_rate_limit(
        self, where: str, response: httpx.Response, attempt: int, code: str | None
    ) -> Auth0RateLimited:
        """Begin or prolong the pause as a 429 asks, and return the error of this attempt."""
        now = self._clock()
        wait = read_retry_after(response.headers, now)
        longest = self._retries.longest
        if wait is None or wait < longest:
            # Jitter on top: a herd would only be refused again.
            wait = min(longest, (wait or 0.0) + self._retries.backoff(attempt))
        until = now + timedelta(seconds=wait)
        self._paused_until = max(until, self._paused_until or until)
        return Auth0RateLimited.spent(where, wait, code=code)

    def _wait(self, state: RetryCallState) -> float:
        error = _error_of(state)
        if isinstance(error, Auth0RateLimited):
            return error.retry_after
        return self._retries.backoff(state.attempt_number)

    def _is_enough(self, state: RetryCallState) -> bool:
        # A 429 costs patience, not attempts: with many calls at a small limit most of them are refused often.
        if isinstance(_error_of(state), Auth0RateLimited):
            longest = self._retries.longest
            return state.idle_for >= longest or state.idle_for + state.upcoming_sleep > longest
        return state.attempt_number >= self._retries.attempts


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, Auth0Unreachable):
        return error.status is None or error.status in RETRIED_STATUSES
    return isinstance(error, Auth0RateLimited)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
