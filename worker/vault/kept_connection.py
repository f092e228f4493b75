"""A connection kept for statements that follow each other."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.errors import InvalidSqlStatementName
from sqlalchemy import TextClause
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.database_errors import AnswerTimeout
from worker.vault.db.engine import driver_connection
from worker.vault.vault import Database

# A parameter in a statement, as in SQLAlchemy: one colon, as a cast has two.
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)(?!:)")


class KeptConnection:
    """Runs statements over one of the pool's connections.

    Taking a connection from the pool and returning it takes longer than a statement. Within a block of ``keep`` it is
    returned at the end of the block, otherwise after each statement.

    Args:
        database: provides the pool.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._blocks = 0
        # A connection runs one statement at a time, and is returned only between statements.
        self._in_use = asyncio.Lock()

    @asynccontextmanager
    async def keep(self) -> AsyncIterator[None]:
        """Keep the connection until the last of these blocks ends."""
        self._blocks += 1
        try:
            yield
        finally:
            self._blocks -= 1
            async with self._in_use:
                await self._return_unless_kept()

    async def run(self, statement: TextClause, values: Mapping[str, str]) -> Sequence[tuple[Any, ...]]:
        """Run one statement, which may run twice.

        It commits by itself. It is prepared once, as parsing a long statement takes as long as running it. If the
        connection was lost, for example by a restart of Postgres, the statement runs again on another one.

        Args:
            values: as text, whatever their types.

        Raises:
            SQLAlchemyError: as ``Database.run``.
        """
        text, names = _prepare(statement.text)
        try:
            return await self._fetch(text, [values[name] for name in names])
        except AnswerTimeout as error:
            raise OperationalError(None, None, error, hide_parameters=True) from None
        except psycopg.Error:
            return await self._database.run(statement, values)

    async def _fetch(self, statement: str, values: Sequence[str]) -> Sequence[tuple[Any, ...]]:
        async with self._in_use:
            try:
                if self._connection is None:
                    self._connection = await self._take()
                driver = await driver_connection(self._connection)
                try:
                    return await driver.fetch(statement, values)
                except InvalidSqlStatementName:  # psycopg deallocates all statements after a rollback
                    return await driver.fetch(statement, values)
            except (psycopg.Error, asyncio.CancelledError):
                if self._connection is not None:
                    await self._connection.invalidate()
                raise
            finally:
                await self._return_unless_kept()

    async def _take(self) -> AsyncConnection:
        connection = await self._database.engine.connect()
        try:
            return await connection.execution_options(isolation_level="AUTOCOMMIT")
        except BaseException:  # after a cancellation nobody else would return it
            await connection.close()
            raise

    async def _return_unless_kept(self) -> None:
        connection = self._connection
        if connection is not None and (connection.invalidated or not self._blocks):
            self._connection = None
            await connection.close()


@functools.cache
def _prepare(statement: str) -> tuple[str, list[str]]:
    """Return psycopg's statement and its parameters' names."""
    return _PARAMETER.sub("%s", statement), _PARAMETER.findall(statement)
