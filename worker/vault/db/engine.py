"""Engines that connect to the vault's database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from token_vault.connect_args import CONNECT_ARGS
from token_vault.database_errors import not_a_url
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret

SESSION_SETTINGS: Mapping[str, str] = {
    # A client that is paused, or whose host has lost power, says nothing to Postgres. Every claim passes over the
    # rows that its open transaction has locked: if Postgres did not end it, they would not be renewed any more.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "60s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
}
"""When Postgres ends a silent client's session, with its transaction and locks.

Source: PostgreSQL documentation, 19.3.2 TCP Settings and 19.11.1 Statement Behavior.
"""


def sqlalchemy_url(database_url: Secret) -> str:
    """Turn libpq's URL into SQLAlchemy's, with the psycopg driver.

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


def create_vault_engine(database_url: Secret, *, connections: int) -> AsyncEngine:
    """Create the engine of one process.

    Args:
        connections: how many connections to Postgres at the most.

    Raises:
        ConfigurationError: not a Postgres URL.
    """
    engine = create_async_engine(
        sqlalchemy_url(database_url),
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # an error message must not show what was sent
        # application_name tells the operator who holds a connection.
        connect_args={"application_name": "token-vault", **CONNECT_ARGS},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure_session(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT {', '.join(['set_config(%s, %s, false)'] * len(SESSION_SETTINGS))}",
            [part for pair in SESSION_SETTINGS.items() for part in pair],
        )
        cursor.close()
        connection.commit()

    return engine
