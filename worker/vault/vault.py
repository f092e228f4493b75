"""An open vault: its database, key rings and fingerprints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault import location
from worker.vault.crypto import vault_secrets
from worker.vault.crypto.fingerprints import Fingerprints
from worker.vault.crypto.rings import read_rings
from worker.vault.db.engine import create_vault_engine
from worker.vault.db.errors import explained
from worker.vault.db.revisions import check_revision

# Changes nothing, but fails on a read-only server.
_LOCK_NOTHING = text("SELECT FROM leases WHERE false FOR UPDATE")
_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")


@dataclass(frozen=True, slots=True)
class Database:
    """The vault's database, without keys.

    Attributes:
        engine: connections to Postgres.
        direct_engine: connections that bypass the pooler, if there is one.
    """

    engine: AsyncEngine
    direct_engine: AsyncEngine | None = field(default=None, kw_only=True)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection that no pooler shares, for LISTEN."""
        async with (self.direct_engine or self.engine).connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection on which each statement commits by itself.

        That takes one round trip instead of three.
        """
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def run(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement, which may run twice.

        It commits by itself. After a restart of Postgres the pool's connections are dead: then the statement runs again
        on a new one.
        """
        for attempt in (1, 2):
            try:
                async with self.statement() as connection:
                    result = await connection.execute(statement, values)
                    return [tuple(row) for row in result] if result.returns_rows else []
            except DBAPIError as error:
                if attempt == 2 or not error.connection_invalidated:
                    raise
        raise AssertionError  # pragma: no cover  # the second attempt returns or raises

    async def check_access_keys(self, access_keys: Sequence[Secret]) -> None:
        """Check that the access ring is the vault's.

        Raises:
            ConfigurationError: it is not.
            TemporarilyUnavailable: Postgres does not answer.
        """
        async with explained(), self.statement() as connection:
            await vault_secrets.check_access_ring(connection, KeyRing("access", access_keys))

    async def check_location(self) -> None:
        """Check that this is not a copy of the vault.

        Raises:
            CopiedVault: it is a copy, or may be one.
        """
        location.check(await self.location_difference())

    async def location_difference(self) -> str | None:
        """Return a code if this is not the recorded location."""
        ((code,),) = await self.run(location.FIND_DIFFERENCE)
        return None if code is None else str(code)

    async def check_writable(self) -> None:
        """Check that the database accepts commits.

        Raises:
            DBAPIError: it does not, for example after a failover; its connections are dropped.
        """
        await self.run(_LOCK_NOTHING)

    async def is_read_only(self) -> bool:
        """Return whether the database is read-only, as a replica is."""
        ((is_read_only,),) = await self.run(_IS_READ_ONLY)
        return bool(is_read_only)

    async def now(self) -> datetime:
        """Return the database's time, the clock of all workers."""
        (row,) = await self.run(text("SELECT clock_timestamp()"))
        now: datetime = row[0]
        return now


@dataclass(frozen=True, slots=True)
class Vault(Database):
    """An open vault: the database with its keys.

    Attributes:
        access, refresh: the two key rings.
        fingerprints: makes fingerprints of tokens and clients.
    """

    access: KeyRing
    refresh: KeyRing
    fingerprints: Fingerprints

    async def replace_keys(self, access_keys: Sequence[Secret], refresh_keys: Sequence[Secret]) -> None:
        """Use these keys from now on.

        Raises:
            WrongKeys: they are not this vault's, or unsafe; then nothing has changed.
        """
        access, refresh = read_rings(access_keys, refresh_keys)
        async with explained(), self.engine.begin() as connection:
            await vault_secrets.load_or_create(connection, access, refresh)
        self.access.take_over(access)
        self.refresh.take_over(refresh)


@asynccontextmanager
async def open_database(database_url: Secret, *, connections: int) -> AsyncIterator[Database]:
    """Open the database without keys; connect later.

    Raises:
        ConfigurationError: not a Postgres URL.
    """
    engine = create_vault_engine(database_url, connections=connections)
    try:
        yield Database(engine)
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_vault(
    database_url: Secret,
    access_keys: Sequence[Secret],
    refresh_keys: Sequence[Secret],
    *,
    connections: int = 10,
    direct_url: Secret | None = None,
) -> AsyncIterator[Vault]:
    """Open the vault, and check both rings.

    Args:
        database_url: of the vault, directly or through a pooler.
        access_keys, refresh_keys: Fernet keys, newest first.
        connections: the most connections to Postgres.
        direct_url: Postgres' own address, if ``database_url`` names a pooler, which passes on no wakeups.

    Raises:
        WrongKeys: the rings are not this vault's, or unsafe.
        ConfigurationError: a wrong URL, one of the vault's secrets is missing, or the migrations have not run.
        TemporarilyUnavailable: Postgres does not answer.
    """
    access, refresh = read_rings(access_keys, refresh_keys)
    engine = create_vault_engine(database_url, connections=connections)
    direct = create_vault_engine(direct_url, connections=connections) if direct_url else None
    try:
        async with explained(), engine.begin() as connection:
            await check_revision(connection)
            fingerprint_key = await vault_secrets.load_or_create(connection, access, refresh)
        yield Vault(engine, access, refresh, Fingerprints(fingerprint_key), direct_engine=direct)
    finally:
        await engine.dispose()
        if direct is not None:
            await direct.dispose()
