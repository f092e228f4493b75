"""Postgres is killed under a running API."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import SETTINGS, serving
from tests.support.callers import Caller, is_unavailable
from tests.support.database import SharedPostgres, cloned_database, empty_tables
from tests.support.readers import Rows, Sql
from tests.support.wait import until_async
from token_vault.secret import Secret

PATH, STALE = "/v1/users/oauth2%7Cu1/tokens/custom", "/v1/users/oauth2%7Cu2/tokens/custom"


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[Secret]:
    """A vault on a Postgres of its own."""
    with cloned_database(tmp_path / "own", "vault_killed") as url:
        empty_tables(url)
        yield url


async def test_a_killed_postgres_costs_a_while(
    environment: Path, api_key: str, rows: Rows, sql: Sql, tmp_path: Path
) -> None:
    """Callers and waiters are told to come again, and served by the same process when Postgres is back."""
    await rows.add()
    await rows.add("oauth2|u2", subject="u2", expires_in=5)
    environment.write_text(SETTINGS, encoding="utf-8")  # noqa: ASYNC240  # a small file
    with serving(tmp_path) as api:
        assert api.call(PATH, api_key).status_code == 200
        waiter = Caller(f"{api.url}{STALE}?wait=30", api_key)
        await until_async(lambda: bool(sql("SELECT 1 FROM refresh_requests")))
        readers = [Caller(f"{api.url}{PATH}", api_key) for _ in range(8)]
        pid = int((tmp_path / "own/postgres/data/postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        for reader in readers:
            answer = await asyncio.to_thread(reader.ended)
            assert answer.status_code == 200 or is_unavailable(answer), answer.text
        assert is_unavailable(await asyncio.to_thread(waiter.ended))
        assert is_unavailable(api.call(PATH, api_key))
        assert api.call("/healthz").status_code == 200
        assert is_unavailable(api.call("/readyz"))
        with SharedPostgres(tmp_path / "own", durable=False).running():
            await until_async(lambda: api.call(PATH, api_key).status_code == 200)
            await until_async(lambda: api.call("/readyz").status_code == 200)
        assert "request.failed" not in api.process.log
