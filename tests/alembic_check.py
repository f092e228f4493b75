"""`python -m tests.alembic_check`: whether the migrations make exactly the tables that the models describe."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.util.exc import CommandError

from token_vault.errors import VaultError
from token_vault.secret import Secret
from worker import embedded
from worker.vault.db.migrate import configuration, migrate


def drift(database_url: Secret) -> str | None:
    """Say how a migrated database differs from the models; None where it does not."""
    config = configuration(database_url)
    config.stdout = io.StringIO()
    try:
        command.check(config)
    except CommandError as difference:
        return str(difference)
    return None


def main() -> int:
    """Migrate an empty Postgres in a temporary folder and compare; 0 where nothing differs."""
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
