"""A reader's connections to Postgres: made when needed, kept, replaced when the server has dropped them.

A failure to connect is raised at once and as what it is. A pool that connects in the background could only tell
its callers, seconds later, that it took too long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from token_vault.connect_args import CONNECT_ARGS
from token_vault.database_errors import failure
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret

# Connections of one reader at the most, and seconds to wait for one of them.
MOST = 10
PATIENCE = 10.0
# Seconds to wait for an answer: a migration may hold the table, a server be stopped with all its connections open.
ANSWER = 10.0
# Seconds after which a connection that nobody needed is closed.
REST = 300.0

CONNECT: dict[str, Any] = {
    "autocommit": True,
    "prepare_threshold": 0,
    "application_name": "token-vault reader",
    **CONNECT_ARGS,
}

# A name that Postgres cannot even hold (NUL, half a surrogate pair): no row has it.
_UNHEARD_OF = (psycopg.DataError, UnicodeEncodeError)

Rows = list[tuple[object, ...]]
R = TypeVar("R")
C = TypeVar("C", bound="psycopg.Connection[Any] | psycopg.AsyncConnection[Any]")


class _NoAnswer(psycopg.InterfaceError):
    """Postgres took a question and has not answered in time."""


class _Connection(psycopg.Connection[Any]):
    """One that waits no longer than it should."""

    def wait(self, gen: PQGen[R], *arguments: Any, **named: Any) -> R:
        return super().wait(_bounded(gen), *arguments, **named)


class _AsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for asyncio."""

    async def wait(self, gen: PQGen[R], *arguments: Any, **named: Any) -> R:
        return await super().wait(_bounded(gen), *arguments, **named)


def _bounded(gen: PQGen[R]) -> PQGen[R]:
    """Go through what the driver does with the socket; it looks up ten times a second where nothing comes."""
    deadline = time.monotonic() + ANSWER
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise _NoAnswer
            wanted = gen.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


class _Resting(Generic[C]):
    """Connections that nobody uses, the one used last on top."""

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
        """Put a connection to rest; returns those to be closed, itself among them where it is of no more use."""
        with self._lock:
            if self._closed or connection.info.transaction_status is not TransactionStatus.IDLE:
                return [connection]
            now, worn = time.monotonic(), []
            while self._kept and self._kept[0][1] < now - REST:
                worn.append(self._kept.popleft()[0])
            self._kept.append((connection, now))
            return worn

    def empty(self, *, close: bool = False) -> list[C]:
        """Return all that rest, to be closed; with ``close`` none is taken or kept any more."""
        with self._lock:
            found = [connection for connection, _ in self._kept]
            self._kept.clear()
            self._closed = self._closed or close
            return found


class Pool:
    """For threads."""

    def __init__(self, database_url: Secret) -> None:
        self._url = database_url
        self._room = threading.BoundedSemaphore(MOST)
        self._resting: _Resting[psycopg.Connection[Any]] = _Resting()

    def rows(self, statement: str, values: Sequence[object]) -> Rows:
        """Read; once more over a new connection where the server has dropped the one at hand.

        Raises:
            ConfigurationError, AccessDenied, TemporarilyUnavailable: as ``failure`` names it.
        """
        if not self._room.acquire(timeout=PATIENCE):
            raise _busy()
        try:
            if (connection := self._resting.take()) is not None:
                try:
                    return self._read(connection, statement, values)
                except psycopg.OperationalError:
                    if not connection.closed:
                        raise
                    for dropped in self._resting.empty():
                        dropped.close()
            return self._read(_Connection.connect(self._url.reveal(), **CONNECT), statement, values)
        except _UNHEARD_OF:
            return []
        except psycopg.Error as error:
            raise failure(error) from None
        finally:
            self._room.release()

    def close(self) -> None:
        """Close the connections; those in use are closed after it."""
        for connection in self._resting.empty(close=True):
            connection.close()

    def _read(self, connection: psycopg.Connection[Any], statement: str, values: Sequence[object]) -> Rows:
        try:
            return connection.execute(statement, values, prepare=True, binary=True).fetchall()
        finally:
            for worn in self._resting.keep(connection):
                worn.close()


class AsyncPool:
    """For asyncio."""

    def __init__(self, database_url: Secret) -> None:
        self._url = database_url
        self._room = asyncio.BoundedSemaphore(MOST)
        self._resting: _Resting[psycopg.AsyncConnection[Any]] = _Resting()

    async def rows(self, statement: str, values: Sequence[object]) -> Rows:
        """Read; raises as ``Pool.rows``."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._room.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            if (connection := self._resting.take()) is not None:
                try:
                    return await self._read(connection, statement, values)
                except psycopg.OperationalError:
                    if not connection.closed:
                        raise
                    for dropped in self._resting.empty():
                        await dropped.close()
            connection = await _AsyncConnection.connect(self._url.reveal(), **CONNECT)
            return await self._read(connection, statement, values)
        except _UNHEARD_OF:
            return []
        except psycopg.Error as error:
            raise failure(error) from None
        finally:
            self._room.release()

    async def close(self) -> None:
        """Close the connections; those in use are closed after it."""
        for connection in self._resting.empty(close=True):
            await connection.close()

    def abandon(self) -> None:
        """Close what rests, from outside of the event loop that it was used in."""
        for connection in self._resting.empty(close=True):
            connection.pgconn.finish()

    async def _read(
        self, connection: psycopg.AsyncConnection[Any], statement: str, values: Sequence[object]
    ) -> Rows:
        try:
            cursor = await connection.execute(statement, values, prepare=True, binary=True)
            return await cursor.fetchall()
        finally:
            for worn in self._resting.keep(connection):
                await worn.close()


def _busy() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        f"all {MOST} connections of this reader were in use for {PATIENCE:.0f} s", 1
    )
