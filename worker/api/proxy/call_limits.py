"""Limits of concurrent calls through the proxy.

A provider or a caller can make a call last for minutes. So all calls of one user, of one connection, and of the proxy
as a whole may only be a part of ``max_concurrent``: reads of tokens can always be served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from worker.api.problems import unavailable

# Seconds after which a refused caller may ask again.
RETRY_SECONDS = 1
# A key of a request's scope: an ``ExitStack``, closed when the answer has ended.
_HELD = "token_vault.held"


class CallLimits:
    """Counts and limits the calls of this process.

    Args:
        max_concurrent: requests of any kind that the process serves at a time.
    """

    def __init__(self, max_concurrent: int) -> None:
        self.max_calls = max(1, max_concurrent * 3 // 4)
        self.max_of_connection = max(1, max_concurrent // 2)
        self.max_of_user = max(1, max_concurrent // 8)
        self._running = 0
        self._of_connection: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()

    @contextmanager
    def place(self, connection: str, user_id: str | None) -> Iterator[None]:
        """Count one call while it runs.

        Args:
            user_id: the user whose front end calls; None for an application.

        Raises:
            ApiProblem: ``temporarily-unavailable``: a limit is reached.
        """
        if user_id is not None and self._of_user[user_id] >= self.max_of_user:
            raise unavailable("this user has too many calls under way", RETRY_SECONDS)
        if self._running >= self.max_calls or self._of_connection[connection] >= self.max_of_connection:
            raise unavailable("too many calls through the proxy at a time", RETRY_SECONDS)
        users = [user_id] if user_id is not None else []
        self._running += 1
        self._of_connection[connection] += 1
        self._of_user.update(users)
        try:
            yield
        finally:
            self._running -= 1
            self._of_connection[connection] -= 1
            self._of_user.subtract(users)
            if user_id is not None and not self._of_user[user_id]:
                del self._of_user[user_id]  # a count for each user ever seen would fill the memory


class HoldToTheEnd:
    """Middleware: a request can hold something until its answer ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with ExitStack() as held:
            await self._app({**scope, _HELD: held}, receive, send)


def held_by(scope: Scope) -> ExitStack:
    """Return the stack that closes when the answer ends."""
    held: ExitStack = scope[_HELD]
    return held
