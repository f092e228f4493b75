"""Turns SQLAlchemy's errors into the vault's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.database_errors import RETRY_AFTER, failure
from token_vault.errors import TemporarilyUnavailable, VaultError


def explain(error: DBAPIError | PoolTimeout) -> VaultError:
    """Return the error that names the cause and its fix."""
    if isinstance(error, PoolTimeout):
        return TemporarilyUnavailable("all connections to Postgres are in use", RETRY_AFTER)
    return failure(error.orig)


@asynccontextmanager
async def explained() -> AsyncIterator[None]:
    """Raise the database's failures as the vault's errors.

    Raises:
        ConfigurationError: wrong credentials, no such database, or not migrated.
        TemporarilyUnavailable: Postgres does not answer.
    """
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        raise explain(error) from None
