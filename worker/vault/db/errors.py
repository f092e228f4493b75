"""The database's failures as the vault's own errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError

from token_vault.database_errors import failure
from token_vault.errors import VaultError


def explain(error: DBAPIError) -> VaultError:
    """Name what is wrong with the database, and who fixes it."""
    return failure(error.orig)


@asynccontextmanager
async def explained() -> AsyncIterator[None]:
    """Raise the database's failures as ``explain`` names them.

    Raises:
        ConfigurationError: wrong credentials, no such database, or not migrated.
        TemporarilyUnavailable: Postgres does not answer.
    """
    try:
        yield
    except DBAPIError as error:
        raise explain(error) from None
