"""Brings the database to this version's tables."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.vault.db.engine import create_command_engine
from worker.vault.db.errors import explain
from worker.vault.db.revisions import MIGRATIONS
from worker.vault.db.sql import load

_LOOK = load(__file__, "look_at_database")
# The oldest version of Postgres that its project still supports (docs/matrix.md).
OLDEST_MAJOR_VERSION = 14


def configuration(database_url: Secret) -> Config:
    """Return Alembic's configuration for this database.

    The URL stays out of files and of ``alembic.ini``.
    """
    config = Config(attributes={"database_url": database_url})
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def migrate(database_url: Secret, revision: str = "head") -> list[str]:
    """Run the migrations, then grant the roles their rights.

    Returns:
        Statements about roles that the current role may not run, so that the operator has to.

    Raises:
        ConfigurationError, TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    check_database(database_url)
    config, left = configuration(database_url), list[str]()
    if revision == "head":
        config.attributes["left_to_grant"] = left
    try:
        command.upgrade(config, revision)
    except DBAPIError as error:
        raise explain(error) from None
    return left


def check_database(database_url: Secret) -> None:
    """Refuse a database that cannot hold a vault.

    Raises:
        ConfigurationError: it is too old, its encoding is not UTF8, the search path has no schema, or not the vault's; or
            as ``explain`` names the database's failure.
        TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    try:
        with create_command_engine(database_url).connect() as connection:
            version, encoding, schema, is_nowhere = connection.execute(_LOOK).one()
    except DBAPIError as error:
        raise explain(error) from None
    if version < OLDEST_MAJOR_VERSION:
        raise ConfigurationError(
            f"this is Postgres {version}, and a vault needs {OLDEST_MAJOR_VERSION} or newer: upgrade the server, or point "
            "DATABASE_URL to another"
        )
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database has the encoding {encoding}, which cannot hold every user's id: make one by "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move a vault there by pg_dump and pg_restore"
        )
    if schema is None and is_nowhere:
        raise ConfigurationError(
            "this connection's search_path names no schema that there is: create it, or correct "
            "?options=-csearch_path%3D… in DATABASE_URL"
        )
    if schema is not None:
        raise ConfigurationError(
            f"this database has a vault in the schema {schema}, and connections look into public: add "
            f"?options=-csearch_path%3D{schema} to DATABASE_URL"
        )
