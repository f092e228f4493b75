"""Listens for wakeups, on one connection for all who wait.

A wakeup is a hint to look at the rows. Anybody who may connect can send one, with any payload, so the payload is only
compared with the grants that are waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg

from token_vault.connect import connect, connect_async
from token_vault.pool import MAX_ANSWER_SECONDS
from token_vault.postgres_address import PostgresAddress
from token_vault.read_model import CHANNEL

# The connection is kept this long after the last wait ended.
IDLE_SECONDS = 5.0
_NAME = "token-vault reader"
# After a failover the connection may lead to a server on which no refresh ends any more.
_READ_ONLY = "SELECT current_setting('transaction_read_only')::boolean"


class Listener:
    """Wakes threads that wait for a grant."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._waiters: defaultdict[str, set[threading.Event]] = defaultdict(set)
        self._listening = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._is_pooled = False  # a pooler does not pass on wakeups: the flow polls the row instead

    @contextmanager
    def waiting(self, grant_id: int, *, connect_seconds: float) -> Iterator[threading.Event]:
        """Yield an event that is set by this grant's wakeups.

        Listening has begun when it is yielded. It is never set where nobody can listen: on a replica, without a free
        connection, or when connecting takes too long.

        Args:
            connect_seconds: how long to wait for the listening connection.
        """
        wakeup, payload = threading.Event(), str(grant_id)
        with self._lock:
            self._waiters[payload].add(wakeup)
            if self._thread is None and not self._is_pooled:
                self._listening = threading.Event()
                self._thread = threading.Thread(
                    target=self._listen, args=(self._listening,), name="token-vault listener", daemon=True
                )
                self._thread.start()
            listening = self._listening
        try:
            listening.wait(connect_seconds)
            yield wakeup
        finally:
            with self._lock:
                self._waiters[payload].discard(wakeup)
                if not self._waiters[payload]:
                    del self._waiters[payload]

    def close(self) -> None:
        """Stop listening."""
        self._closed = True

    def _listen(self, listening: threading.Event) -> None:
        # A lost connection ends this thread: those who wait then rely on polling, and the next wait starts a new thread.
        try:
            with (
                suppress(psycopg.Error),
                connect(
                    self._address, _NAME, answer_seconds=MAX_ANSWER_SECONDS, autocommit=True
                ) as connection,
            ):
                if connection.is_pooled:
                    self._is_pooled = True
                    return
                connection.execute(f"LISTEN {CHANNEL}")
                listening.set()
                while not self._closed and not self._may_end():
                    for notification in connection.notifies(timeout=IDLE_SECONDS, stop_after=1):
                        self._wake(notification.payload)
                    if connection.execute(_READ_ONLY).fetchone() == (True,):
                        break
        finally:
            self._ended()
            listening.set()

    def _may_end(self) -> bool:
        """Whether the thread ends: nobody waits any more.

        Decided under the lock, so that no wait joins a listener that is about to end.
        """
        with self._lock:
            if self._waiters:
                return False
            self._thread = None
            return True

    def _ended(self) -> None:
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None

    def _wake(self, payload: str) -> None:
        with self._lock:
            for wakeup in self._waiters.get(payload, ()):
                wakeup.set()


class AsyncListener:
    """Wakes one event loop's coroutines that wait for a grant."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_pooled = False

    @asynccontextmanager
    async def waiting(self, grant_id: int, *, connect_seconds: float) -> AsyncIterator[asyncio.Event]:
        """Yield an event that this grant's wakeups set."""
        wakeup, payload = asyncio.Event(), str(grant_id)
        self._waiters[payload].add(wakeup)
        if (self._task is None or self._task.done()) and not self._is_pooled:
            self._listening = asyncio.Event()
            self._task = asyncio.create_task(self._listen(self._listening))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(connect_seconds):
                    await self._listening.wait()
            yield wakeup
        finally:
            self._waiters[payload].discard(wakeup)
            if not self._waiters[payload]:
                del self._waiters[payload]

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self, listening: asyncio.Event) -> None:
        try:
            with suppress(psycopg.Error):
                async with await connect_async(
                    self._address, _NAME, answer_seconds=MAX_ANSWER_SECONDS, autocommit=True
                ) as connection:
                    if connection.is_pooled:
                        self._is_pooled = True
                        return
                    await connection.execute(f"LISTEN {CHANNEL}")
                    listening.set()
                    while self._waiters:
                        async for notification in connection.notifies(timeout=IDLE_SECONDS, stop_after=1):
                            self._wake(notification.payload)
                        if await (await connection.execute(_READ_ONLY)).fetchone() == (True,):
                            break
                    self._task = (
                        None  # before the connection closes, so that a wait from now on starts a new task
                    )
        finally:
            listening.set()

    def _wake(self, payload: str) -> None:
        for wakeup in self._waiters.get(payload, ()):
            wakeup.set()
