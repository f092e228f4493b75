"""A reader's connections to Postgres.

They are opened when needed, kept for the next read, and replaced when the server has dropped them.

A failure to connect is raised at once, with its cause. A pool that connects in the background could only report a
timeout, seconds later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from token_vault.bounded_connection import AsyncBoundedConnection, BoundedConnection
from token_vault.connect import connect, connect_async
from token_vault.database_errors import AnswerTimeout, DatabaseProblem, classify, failure, is_useless
from token_vault.errors import TemporarilyUnavailable
from token_vault.postgres_address import PostgresAddress
from token_vault.prepared_statements import Rows

MAX_CONNECTIONS = 10  # of one reader
# How long to wait until one of them is free.
CONNECTION_WAIT_SECONDS = 10.0
# Without it a read waits as long as a migration locks the table, or a stopped server keeps its connections open.
MAX_ANSWER_SECONDS = 10.0
# A connection that was not used for this long is closed.
MAX_IDLE_SECONDS = 300.0
# On a replica each refresh request fails as read-only: younger connections than this are kept all the same.
READ_ONLY_SECONDS = 5.0

_NAME = "token-vault reader"
_DRIVER: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0}

# For a name that Postgres cannot store (NUL, half a surrogate pair); so no row has it.
_IMPOSSIBLE_NAME = (psycopg.DataError, UnicodeEncodeError)

C = TypeVar("C", BoundedConnection, AsyncBoundedConnection)


class _IdleConnections(Generic[C]):
    """A stack of idle connections, most recently used on top."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[C, float]] = deque()
        self._closed = False

    def take(self) -> C | None:
        with self._lock:
            if self._closed:
                raise RuntimeError("this reader is closed")
            return self._kept.pop()[0] if self._kept else None

    def keep(self, connection: C) -> list[C]:
        """Keep a connection, and return those to be closed.

        The connection itself is among them if it is unusable.
        """
        with self._lock:
            if self._closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
                return [connection]
            now, outdated = time.monotonic(), []
            while self._kept and self._kept[0][1] < now - MAX_IDLE_SECONDS:
                outdated.append(self._kept.popleft()[0])
            self._kept.append((connection, now))
            return outdated

    def empty(self, *, close: bool = False) -> list[C]:
        """Return all idle connections, to be closed.

        With ``close``, no connection is taken or kept from now on.
        """
        with self._lock:
            found = [connection for connection, _ in self._kept]
            self._kept.clear()
            self._closed = self._closed or close
            return found


class Pool:
    """Connections shared by the threads of one process."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._capacity = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: _IdleConnections[BoundedConnection] = _IdleConnections()

    def rows(self, statement: str, values: Sequence[object]) -> Rows:
        """Run a statement, and return its rows.

        If the server has dropped the idle connection or become read-only, the statement runs again on a new connection,
        and all idle connections are closed, as they lead to the same server.

        Raises:
            ConfigurationError, AccessDenied, TemporarilyUnavailable: as ``failure`` classifies it; a statement whose
                answer did not come in time is not repeated.
        """
        if not self._capacity.acquire(timeout=CONNECTION_WAIT_SECONDS):
            raise _busy()
        try:
            if (connection := self._idle.take()) is not None:
                try:
                    return self._read(connection, statement, values)
                except psycopg.Error as error:
                    if not _is_lost(connection, error):
                        raise
                    for dropped in (connection, *self._idle.empty()):
                        dropped.close()
                    if isinstance(error, AnswerTimeout):
                        raise
            connection = connect(self._address, _NAME, answer_seconds=MAX_ANSWER_SECONDS, **_DRIVER)
            return self._read(connection, statement, values)
        except _IMPOSSIBLE_NAME:
            return []
        except psycopg.Error as error:
            raise failure(error) from None
        finally:
            self._capacity.release()

    def close(self) -> None:
        """Close the connections; those in use are closed after it."""
        for connection in self._idle.empty(close=True):
            connection.close()

    def _read(self, connection: BoundedConnection, statement: str, values: Sequence[object]) -> Rows:
        try:
            return connection.fetch(statement, values)
        finally:
            for outdated in self._idle.keep(connection):
                outdated.close()


class AsyncPool:
    """Connections of one event loop."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._capacity = asyncio.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: _IdleConnections[AsyncBoundedConnection] = _IdleConnections()

    async def rows(self, statement: str, values: Sequence[object]) -> Rows:
        """Run a statement, and return its rows; as ``Pool.rows``."""
        try:
            async with asyncio.timeout(CONNECTION_WAIT_SECONDS):
                await self._capacity.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            if (connection := self._idle.take()) is not None:
                try:
                    return await self._read(connection, statement, values)
                except psycopg.Error as error:
                    if not _is_lost(connection, error):
                        raise
                    for dropped in (connection, *self._idle.empty()):
                        await dropped.close()
                    if isinstance(error, AnswerTimeout):
                        raise
            connection = await connect_async(
                self._address, _NAME, answer_seconds=MAX_ANSWER_SECONDS, **_DRIVER
            )
            return await self._read(connection, statement, values)
        except _IMPOSSIBLE_NAME:
            return []
        except psycopg.Error as error:
            raise failure(error) from None
        finally:
            self._capacity.release()

    async def close(self) -> None:
        """Close the connections; those in use are closed after it."""
        for connection in self._idle.empty(close=True):
            await connection.close()

    def abandon(self) -> None:
        """Close idle connections from outside their event loop."""
        for connection in self._idle.empty(close=True):
            connection.pgconn.finish()

    async def _read(
        self, connection: AsyncBoundedConnection, statement: str, values: Sequence[object]
    ) -> Rows:
        try:
            return await connection.fetch(statement, values)
        finally:
            for outdated in self._idle.keep(connection):
                await outdated.close()


def _is_lost(connection: BoundedConnection | AsyncBoundedConnection, error: psycopg.Error) -> bool:
    """Whether an error shows that the connection is unusable."""
    if classify(error) is DatabaseProblem.READ_ONLY:
        return time.monotonic() - connection.made_at > READ_ONLY_SECONDS
    return bool(connection.closed) or is_useless(error)


def _busy() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        f"all {MAX_CONNECTIONS} connections of this reader were in use for {CONNECTION_WAIT_SECONDS:.0f} s", 1
    )
