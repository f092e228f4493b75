"""Fixtures: Postgres, Redis, and a vault, empty for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client

from tests.support.database import cloned_database, emptied_tables
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.secret import Secret
from worker import embedded
from worker.vault.vault import Vault, open_vault


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder that all processes of a test run share; runs share one that the environment names."""
    if named := os.environ.get("TESTS_RUN_FOLDER"):
        return Path(named)
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def servers(run_folder: Path, worker_id: str) -> Iterator[embedded.Servers]:
    """This process's database on the shared Postgres, and its Redis.

    Redis is not shared: its keys, queues and clients have no owner, and tests empty it and throw clients out.
    """
    with (
        cloned_database(run_folder / "postgres", f"vault_{worker_id}") as database_url,
        embedded.servers(run_folder / f"redis-{worker_id}", postgres=False, durable=False) as own,
    ):
        yield embedded.Servers(database_url, own.redis_url, started=True)


@pytest.fixture(scope="session")
def empty_tables(servers: embedded.Servers) -> Iterator[Callable[[], None]]:
    """Empties the tables of this process's vault."""
    with emptied_tables(servers.database_url) as empty:
        yield empty


@pytest.fixture
def database_url(servers: embedded.Servers, empty_tables: Callable[[], None]) -> Secret:
    """A migrated and empty vault."""
    empty_tables()
    return servers.database_url


@pytest.fixture
def redis_url(servers: embedded.Servers) -> Secret:
    """An empty Redis."""
    with redis_client.Redis.from_url(servers.redis_url.reveal()) as connection:
        connection.flushall()
    return servers.redis_url


@pytest.fixture
def sql(database_url: Secret) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run a statement on the vault; return rows as dictionaries."""
    with psycopg.connect(
        database_url.reveal(), autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:

        def run(statement: str, *values: object) -> list[dict[str, Any]]:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description is not None else []

        yield run


@pytest.fixture
async def vault(database_url: Secret) -> AsyncIterator[Vault]:
    """An open, empty vault."""
    async with open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY]) as opened:
        yield opened
