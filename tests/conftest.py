"""What integration tests stand on: real servers, an emulated tenant, and a migrated vault that each test finds empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
import redis as redis_client

from emulators.client import Emulation, running
from tests.support.renewals import Renewals
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker import embedded
from worker.runtime import Runtime, open_runtime
from worker.settings import Settings, load
from worker.vault.db.database import Vault, open_vault
from worker.vault.db.migrate import migrate

# A slow machine is no failure of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ACCESS_KEY = KeyRing.generate()
REFRESH_KEY = KeyRing.generate()
# The fingerprint key is the vault's own and stays; everything else is emptied before each test.
TABLES = "outbox, deliveries, grants, connections, sync_runs, sync_positions, wanted_users, renewal_counts, management_tokens, vault_secrets"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Servers]:
    """Embedded Postgres and Redis for the whole session, migrated."""
    with embedded.servers(tmp_path_factory.mktemp("home"), durable=False) as running_servers:
        migrate(running_servers.database_url)
        yield running_servers


@pytest.fixture
def database_url(servers: embedded.Servers) -> Secret:
    """A migrated and empty vault."""
    with psycopg.connect(servers.database_url.reveal(), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
    return servers.database_url


@pytest.fixture
def redis_url(servers: embedded.Servers) -> Secret:
    """An empty Redis."""
    with redis_client.Redis.from_url(servers.redis_url.reveal()) as connection:
        connection.flushall()
    return servers.redis_url


@pytest.fixture
def sql(database_url: Secret) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run one statement on the vault's database and get its rows as dictionaries."""
    with psycopg.connect(
        database_url.reveal(), autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:

        def run(statement: str, *values: object) -> list[dict[str, Any]]:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
async def vault(database_url: Secret) -> AsyncIterator[Vault]:
    """An open, empty vault."""
    async with open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY]) as opened:
        yield opened


@pytest.fixture(scope="session")
def emulation() -> Iterator[Emulation]:
    """The emulated tenant and providers, in a process of their own."""
    with running() as started:
        yield started


@pytest.fixture
def tenant(emulation: Emulation) -> Emulation:
    """The emulation, emptied."""
    emulation.reset()
    return emulation


@pytest.fixture
def environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_url: Secret,
    redis_url: Secret,
    tenant: Emulation,
) -> Path:
    """The environment of a vault that syncs from the emulation; returns the path of its TOML file."""
    config = tmp_path / "vault.toml"
    config.touch()
    values = {
        "DATABASE_URL": database_url.reveal(),
        "REDIS_URL": redis_url.reveal(),
        "VAULT_ACCESS_KEYS": ACCESS_KEY.reveal(),
        "VAULT_REFRESH_KEYS": REFRESH_KEY.reveal(),
        "AUTH0_DOMAIN": tenant.auth0_domain,
        "AUTH0_CLIENT_ID": tenant.client_id,
        "AUTH0_CLIENT_SECRET": tenant.client_secret,
        "AUTH0_AUDIENCE": tenant.audience,
        "AUTH0_PLAN": "unlimited",  # the emulated tenant's, unless a test sets a limit
        "TOKEN_VAULT_CONFIG": str(config),
        "TOKEN_VAULT_HOME": str(tmp_path / "home"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return config


@pytest.fixture
def settings(environment: Path, tenant: Emulation) -> Callable[[], Settings]:
    """Load the settings after the emulation's connections are made: its endpoints go into the TOML file."""

    def current() -> Settings:
        environment.write_text(tenant.config_toml(), encoding="utf-8")
        return load()

    return current


@pytest.fixture
async def open_worker(settings: Callable[[], Settings]) -> AsyncIterator[Callable[[], Awaitable[Runtime]]]:
    """Open a runtime on the emulation as it stands now.

    ``runtime = await open_worker()``; call it after connections were added.
    """
    async with AsyncExitStack() as stack:

        async def open_now() -> Runtime:
            return await stack.enter_async_context(open_runtime(settings()))

        yield open_now


@pytest.fixture
async def renewals(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Callable[..., list[dict[str, Any]]]
) -> AsyncIterator[Renewals]:
    """Workers on the emulated tenant, short of patience."""
    async with AsyncExitStack() as stack:
        yield Renewals(tenant, open_worker, sql, stack)
