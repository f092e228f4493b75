"""`python -m tests.alembic_check`: hold the migrations against the models."""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.exc import SAWarning

from token_vault.errors import VaultError
from token_vault.secret import Secret
from worker import embedded
from worker.vault.db.migrate import configuration, migrate


def drift(database_url: Secret) -> str | None:
    """Say how a database differs from the models, or None."""
    config = configuration(database_url)
    config.stdout = io.StringIO()
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 does not know an option that it reads itself, of constraints that are not valid for old rows.
        warnings.filterwarnings("ignore", "Can't validate argument 'dialect_options'", SAWarning)
        return _check(config)


def _check(config: Config) -> str | None:
    try:
        command.check(config)
    except CommandError as difference:
        return str(difference)
    return None


def main() -> int:
    """Migrate an empty Postgres and compare; 0 if nothing differs."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="token-vault-") as folder,
            embedded.servers(Path(folder), redis=False, durable=False) as servers,
        ):
            migrate(servers.database_url)
            found = drift(servers.database_url)
    except VaultError as error:
        found = str(error)
    print(f"migrations: {found or 'in step with the models'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
