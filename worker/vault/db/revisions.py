"""Compares the database's revision with this version's.

It does not import Alembic, which would take a fifth of a worker's memory.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.database_errors import NOT_MIGRATED
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.vault.db.engine import MAX_ANSWER_SECONDS, create_command_engine
from worker.vault.db.errors import explain

MIGRATIONS = Path(__file__).parents[3] / "migrations"


def revisions(database_url: Secret) -> tuple[str | None, str]:
    """Return the database's revision, and this version's newest.

    Raises:
        ConfigurationError: a newer version has migrated the database, or as ``explain``.
        TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    # Readiness calls this in a thread, which would hang as long as Postgres does not answer.
    engine = create_command_engine(database_url, answer_seconds=MAX_ANSWER_SECONDS)
    try:
        with engine.connect() as connection:
            current: str | None = None
            if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one():
                current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DBAPIError as error:
        raise explain(error) from None
    return current, _newest(current)


async def check_revision(connection: AsyncConnection) -> None:
    """Check that the database has this version's tables and rules.

    Raises:
        ConfigurationError: an older or a newer version has migrated it.
    """
    current = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
    if current != _newest(current):
        raise ConfigurationError(NOT_MIGRATED)


def _newest(current: str | None) -> str:
    """Return this version's newest revision.

    Raises:
        ConfigurationError: a newer version has migrated the database.
    """
    known = list_revisions()
    if current is not None and current not in known:
        raise ConfigurationError(
            f"the database is at revision {current}, which a newer version of this program has made: install that one, "
            "or restore the database of this one's time"
        )
    return known[-1]


def list_revisions() -> list[str]:
    """Return this version's revisions, oldest first.

    The name of a migration's file begins with its revision.
    """
    return sorted(path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/[0-9]*_*.py"))
