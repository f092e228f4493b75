"""The vault as an open thing: an engine, two key rings, the fingerprint key, and the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, event, make_url, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_vault.connect_args import CONNECT_ARGS
from token_vault.database_errors import failure, not_a_url
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError, VaultError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.crypto.fingerprints import Fingerprints
from worker.vault.db.tables import VaultSecret

MIGRATIONS = Path(__file__).parents[3] / "migrations"

# The column is called `ciphertext` by now; what is in the ciphertexts stays.
FINGERPRINT_KEY = EncryptionContext("vault_secrets", ("fingerprint_key",), "sealed")
ACCESS_CHECK = EncryptionContext("vault_secrets", ("access_ring_check",), "sealed")

GIVEN_UP: Mapping[str, str] = {
    # Who is paused, or whose host has lost power, says no word of it to Postgres either. The rows that its open
    # transaction has locked are passed over by every claim: without an end, they are renewed no more.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "60s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
}
"""When Postgres gives up a connection of the vault, its transaction and its locks.

Source: PostgreSQL documentation, 19.3.2 TCP Settings and 19.11.1 Statement Behavior.
"""


def sqlalchemy_url(database_url: Secret) -> str:
    """Turn a Postgres URL as libpq knows it into SQLAlchemy's, with the psycopg driver.

    Raises:
        ConfigurationError: not a Postgres URL.
    """
    try:
        url = make_url(database_url.reveal())
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise not_a_url() from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"DATABASE_URL names {url.get_backend_name()}: the vault needs postgresql://…"
        )
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Vault:
    """An open vault. Every function of this room takes it first.

    Attributes:
        engine: connections to Postgres.
        access, refresh: the two key rings.
        fingerprints: of what Auth0 shows.
    """

    engine: AsyncEngine
    access: KeyRing
    refresh: KeyRing
    fingerprints: Fingerprints

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncConnection]:
        """A connection for one statement that commits by itself: one round trip instead of three."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def run(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement that commits by itself, and that may be run twice without harm.

        After a restart of Postgres the pool's connections are dead: the first one to be used is replaced, and
        the statement goes over a new one.
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

    async def now(self) -> datetime:
        """The database's clock: one for all workers, whatever their hosts' clocks say."""
        (row,) = await self.run(text("SELECT clock_timestamp()"))
        now: datetime = row[0]
        return now


@asynccontextmanager
async def open_vault(
    database_url: Secret,
    access_keys: Sequence[Secret],
    refresh_keys: Sequence[Secret],
    *,
    connections: int = 10,
) -> AsyncIterator[Vault]:
    """Open the vault and check that both rings fit it.

    Args:
        database_url: where the vault is.
        access_keys, refresh_keys: Fernet keys, newest first.
        connections: how many connections to Postgres at the most.

    Raises:
        ConfigurationError: a wrong URL or key, or the migrations have not run.
        TemporarilyUnavailable: Postgres does not answer.
    """
    access, refresh = KeyRing("access", access_keys), KeyRing("refresh", refresh_keys)
    engine = create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # an error message must not show what was sent
        # application_name tells the operator who holds a connection.
        connect_args={"application_name": "token-vault", **CONNECT_ARGS},
    )
    _give_up_silent_clients(engine)
    try:
        async with readable(), engine.begin() as connection:
            fingerprint_key = await _own_secret(connection, refresh, FINGERPRINT_KEY)
            await _own_secret(connection, access, ACCESS_CHECK)
        yield Vault(engine, access, refresh, Fingerprints(fingerprint_key))
    finally:
        await engine.dispose()


def _give_up_silent_clients(engine: AsyncEngine) -> None:
    """Have Postgres give up those of an engine's connections whose client is not there any more."""

    @event.listens_for(engine.sync_engine, "connect")
    def tell(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {', '.join(['set_config(%s, %s, false)'] * len(GIVEN_UP))}",
            [part for pair in GIVEN_UP.items() for part in pair],
        )
        cursor.close()
        connection.commit()


async def _own_secret(connection: AsyncConnection, ring: KeyRing, place: EncryptionContext) -> Secret:
    """Read one of the vault's own secrets, making it when the vault is new."""
    name = place.row[0]
    fresh = ring.encrypt(place, KeyRing.generate())
    await connection.execute(insert(VaultSecret).values(name=name, ciphertext=fresh).on_conflict_do_nothing())
    ciphertext = (
        await connection.execute(select(VaultSecret.ciphertext).where(VaultSecret.name == name))
    ).scalar_one()
    try:
        return ring.decrypt(place, ciphertext)
    except CannotDecrypt:
        raise ConfigurationError(
            f"the {ring.name} ring does not open this vault: it was encrypted under other keys. "
            f"Put the missing key into VAULT_{ring.name.upper()}_KEYS (old keys go to the end of the list)"
        ) from None


@asynccontextmanager
async def readable() -> AsyncIterator[None]:
    """Turn the database's failures into the vault's own errors, without what was sent.

    Raises:
        ConfigurationError: wrong credentials, no such database, or not migrated.
        TemporarilyUnavailable: Postgres does not answer.
    """
    try:
        yield
    except DBAPIError as error:
        raise explain(error) from None


def explain(error: DBAPIError) -> VaultError:
    """Name what is wrong with the database and who mends it."""
    return failure(error.orig)
