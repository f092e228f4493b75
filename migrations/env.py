"""Runs the migrations under one lock, with lock and statement time-outs."""

from __future__ import annotations

from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from token_vault.environment import read_database_url
from token_vault.errors import VaultError
from worker.vault.db.engine import create_command_engine
from worker.vault.db.errors import explain
from worker.vault.db.roles import grant_roles
from worker.vault.db.tables import Base

# Two `migrate` at once take turns instead of colliding: by a table that no reader's role may lock. Before the first
# migration there is none, and there are no readers yet whose advisory locks could be in the way. The number is any
# that no other program uses.
_LOCK = text("""
DO $$ BEGIN
    IF to_regclass('alembic_version') IS NULL THEN PERFORM pg_advisory_xact_lock(7160426118);
    ELSE LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE; END IF;
END $$
""")

# Postgres 17 and later have it.
_NO_TRANSACTION_TIMEOUT = text(
    "SELECT set_config('transaction_timeout', '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
)

# The audit's tables are partitioned by month, by a function of the database: no model describes them.
UNMODELLED = "audit_"

config = context.config
target_metadata = Base.metadata


def is_modelled(name: str | None, kind: str, _parents: object) -> bool:
    """Say whether the models describe an object of the database."""
    return kind != "table" or not (name or "").startswith(UNMODELLED)


def run_online() -> None:
    """Migrate the database of the caller, or of the environment."""
    engine = create_command_engine(config.attributes.get("database_url") or read_database_url())
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.execute(_NO_TRANSACTION_TIMEOUT)
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=target_metadata,
            compare_server_default=True,
            include_name=is_modelled,
        )
        with context.begin_transaction():
            connection.execute(_LOCK)
            context.run_migrations()
            # Not on the way down, nor to a revision that lacks what is granted.
            if (left := config.attributes.get("left_to_grant")) is not None:
                left.extend(grant_roles(connection))


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: the vault is migrated by `token-vault migrate`")
try:
    run_online()
except (DBAPIError, VaultError) as error:
    if "database_url" in config.attributes:
        raise
    # Alembic's own command shows its own errors without a traceback.
    raise CommandError(str(explain(error) if isinstance(error, DBAPIError) else error)) from None
