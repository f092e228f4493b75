"""Engines that connect to the vault's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import structlog
from sqlalchemy import Engine, ExceptionContext, create_engine, event, pool
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_vault.bounded_connection import AsyncBoundedConnection
from token_vault.connect import connect, connect_async
from token_vault.database_errors import classify, is_useless
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret

# The driver is given the address, not SQLAlchemy, whose URLs hold only one host and show the password.
_DIALECT = "postgresql+psycopg://"

log = structlog.get_logger(__name__)


# Longer than any statement of the workers takes, and shorter than workers may stand still after a failover.
MAX_ANSWER_SECONDS = 20.0


async def driver_connection(connection: AsyncConnection) -> AsyncBoundedConnection:
    """Return the driver's own connection."""
    return cast("AsyncBoundedConnection", (await connection.get_raw_connection()).driver_connection)


@asynccontextmanager
async def answer_seconds(connection: AsyncConnection, seconds: float) -> AsyncIterator[None]:
    """Wait longer for answers within the block."""
    driver = await driver_connection(connection)
    driver.answer_seconds = seconds
    yield
    driver.answer_seconds = MAX_ANSWER_SECONDS


SESSION_SETTINGS: Mapping[str, str] = {
    # A client that is paused, or whose host lost power, keeps its transaction open. Claims skip the rows that it has
    # locked: if Postgres did not end it, these grants would not be renewed any more.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "60s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
    # A committed pair must survive a crash of the server, whatever the database's own setting.
    "synchronous_commit": "on",
}
"""When Postgres ends a silent client's session with its transaction and locks, and that commits are durable.

Source: PostgreSQL documentation, 19.3.2 TCP Settings, 19.5.1 WAL Settings and 19.11.1 Statement Behavior.
"""


# A process keeps so many open that nothing uses; one more is closed when it is given back. Each costs Postgres 3 to 4 MB,
# and a tick seldom needs more.
MAX_IDLE_CONNECTIONS = 6


def create_vault_engine(database_url: Secret, *, connections: int) -> AsyncEngine:
    """Create the engine of one process.

    Args:
        connections: the most connections to Postgres.

    Raises:
        ConfigurationError: not a Postgres URL.
    """
    address = PostgresAddress.parse(database_url)
    engine = create_async_engine(
        _DIALECT,
        async_creator=lambda: connect_async(
            address, "token-vault", settings=SESSION_SETTINGS, answer_seconds=MAX_ANSWER_SECONDS
        ),
        pool_size=min(connections, MAX_IDLE_CONNECTIONS),
        max_overflow=max(connections - MAX_IDLE_CONNECTIONS, 0),
        hide_parameters=True,  # an error message must not show what was sent
    )
    event.listen(engine.sync_engine, "handle_error", _drop_useless_connections)
    return engine


def _drop_useless_connections(context: ExceptionContext) -> None:
    """Make the pool drop all connections to an unusable server.

    SQLAlchemy notices only closed connections. After a failover they are open, but lead to a read-only server.
    """
    if context.connection is None or not is_useless(context.original_exception):
        return
    context.is_disconnect = context.invalidate_pool_on_disconnect = True
    log.warning("database.connections_dropped", error=classify(context.original_exception).value)


def create_command_engine(
    database_url: Secret,
    *,
    application_name: str = "token-vault",
    isolation_level: IsolationLevel | None = None,
    answer_seconds: float | None = None,
) -> Engine:
    """Create the engine of a command, which keeps no connection.

    Args:
        application_name: shows the operator which program holds a connection.
        answer_seconds: how long to wait for each answer; None waits without limit, as for migrations.

    Raises:
        ConfigurationError: not a Postgres URL.
    """
    address = PostgresAddress.parse(database_url)
    engine = create_engine(
        _DIALECT,
        creator=lambda: connect(
            address, application_name, settings=SESSION_SETTINGS, answer_seconds=answer_seconds
        ),
        poolclass=pool.NullPool,
        isolation_level=isolation_level,
        hide_parameters=True,
    )
    if answer_seconds is not None:  # a server that does not answer would not answer a rollback either
        event.listen(engine, "handle_error", _drop_useless_connections)
    return engine
