"""Limits of concurrent calls through the proxy.

A call may take minutes, as its provider or its caller likes: so a front end's user, or a provider that hangs, gets a
part of a process's places, and consumers who read tokens always find one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from worker.api.problems import unavailable

# Seconds after which a refused caller may ask again.
RETRY_SECONDS = 1
# In a request's scope: what it holds until its answer has ended.
_HELD = "token_vault.held"


class CallLimits:
    """Counts the calls of this process.

    Args:
        max_concurrent: requests at a time of any kind.
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
        """Take a place for one call.

        Args:
            user_id: the user whose front end calls; None for an application.

        Raises:
            ApiProblem: ``temporarily-unavailable``.
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
                del self._of_user[user_id]  # there are more users than fit into memory


class HoldToTheEnd:
    """Lets a request hold something until its answer has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with ExitStack() as held:
            await self._app({**scope, _HELD: held}, receive, send)


def held_by(scope: Scope) -> ExitStack:
    """Return what a request holds."""
    held: ExitStack = scope[_HELD]
    return held
