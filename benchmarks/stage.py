"""Real servers, an emulated tenant, and a filled vault."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from emulators.client import Emulation, running
from tests.support.database import empty_tables
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import embedded, logs
from worker.runtime import Runtime, open_runtime
from worker.settings import load
from worker.token_pair import TokenPair
from worker.vault.db.migrate import migrate
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.ingest.ingest import ingest

TENANT = "default"
# So many grants are taken at a time.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table.

    Attributes:
        target: the ratio that is wanted, as text; empty where the line is for comparison only.
        met: whether it holds; None where there is no target.
    """

    what: str
    measured: str
    baseline: str
    ratio: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """Durable embedded servers, the emulation, and a worker's environment."""

    home: Path
    servers: embedded.Servers
    emulation: Emulation
    access_key: Secret
    refresh_key: Secret

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Runtime]:
        """An open runtime on the emulation's present connections."""
        config = self.home / "vault.toml"
        config.write_text(self.emulation.config_toml(), encoding="utf-8")
        async with open_runtime(load(), connections=20) as runtime:
            yield runtime

    def sql(self, statement: str, *values: object) -> None:
        """Run a statement on the vault."""
        with psycopg.connect(self.servers.database_url.reveal(), autocommit=True) as connection:
            connection.execute(statement, values or None)

    def add_users(self, number: int, *connections: str) -> None:
        """Start anew with a tenant of users.

        Args:
            number: of each connection's users.
            connections: by default one, ``partner``.
        """
        self.empty()
        self.emulation.set_window(None)
        for name in connections or ("partner",):
            self.emulation.add_connection(
                name, "oauth2", "custom", client_id="bench", client_secret="bench-secret"
            )
            self.emulation.add_users(name, number)

    def users(self, connection: str) -> list[str]:
        """Return the users who have a grant of this connection."""
        with psycopg.connect(self.servers.database_url.reveal()) as open_connection:
            rows = open_connection.execute(
                "SELECT user_id FROM grants WHERE connection = %s ORDER BY id", (connection,)
            ).fetchall()
        return [str(user_id) for (user_id,) in rows]

    def empty(self) -> None:
        """Empty the vault and the emulation."""
        empty_tables(self.servers.database_url)
        self.emulation.reset()


async def fill(stage: Stage, grants: int, token: str) -> None:
    """Ingest this many grants with this access token."""
    async with stage.worker() as runtime:
        now = await runtime.vault.now()
        for first in range(0, grants, PAGE):
            shown = [
                IncomingGrant(
                    key=GrantKey(TENANT, "partner", f"auth0|{number}", str(number)),
                    strategy="oauth2",
                    pair=TokenPair(Secret(token), Secret("r" * 100), now + timedelta(hours=1)),
                    updated_at=now,
                    issued_at=now,
                )
                for number in range(first, min(first + PAGE, grants))
            ]
            await ingest(runtime.vault, shown, now=now)


@contextmanager
def celery(*command: str, log: Path) -> Iterator[None]:
    """A Celery process of the vault's, with the stage's environment."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.app", *command], stdout=output, stderr=output
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def stage() -> Iterator[Stage]:
    """Start everything in a temporary folder, durable as in production."""
    logs.configure(level="ERROR")
    with tempfile.TemporaryDirectory(prefix="vault-bench-") as folder, running() as emulation:
        home = Path(folder)
        with embedded.servers(home / "vault") as servers:
            migrate(servers.database_url)
            access_key, refresh_key = KeyRing.generate(), KeyRing.generate()
            os.environ.update(
                DATABASE_URL=servers.database_url.reveal(),
                REDIS_URL=servers.redis_url.reveal(),
                VAULT_ACCESS_KEYS=access_key.reveal(),
                VAULT_REFRESH_KEYS=refresh_key.reveal(),
                AUTH0_DOMAIN=emulation.auth0_domain,
                AUTH0_CLIENT_ID=emulation.client_id,
                AUTH0_CLIENT_SECRET=emulation.client_secret,
                AUTH0_AUDIENCE=emulation.audience,
                AUTH0_PLAN="unlimited",
                TOKEN_VAULT_CONFIG=str(home / "vault.toml"),
                TOKEN_VAULT_HOME=str(home / "vault"),
            )
            yield Stage(home, servers, emulation, access_key, refresh_key)
