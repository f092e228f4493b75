"""Servers that take a connection and never answer: callers get problem documents, and others are served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient
from tests.support.callers import Caller, is_unavailable
from tests.support.forwarder import Forwarder, forwarder
from tests.support.readers import Rows, Sql
from tests.support.served_api import served
from tests.support.wait import until_async
from token_vault import connect, pool
from token_vault.secret import Secret
from worker.api import jwks
from worker.settings import load
from worker.vault.db import engine

SECRET = "s" * 32
USER, STALE = "/v1/users/oauth2%7Cu1", "/v1/users/oauth2%7Cu2"
# What needs Postgres, each in its own way.
ROUTES = {
    f"{USER}/tokens/custom": "GET",
    f"{USER}/tokens": "GET",
    f"{USER}/tokens/custom/refresh": "POST",
    f"{USER}/tokens/custom/rejected": "POST",
    "/v1/connections/custom/token": "GET",
    "/readyz": "GET",
}


@pytest.fixture
def hole() -> Iterator[int]:
    """The port of a server whose kernel takes connections, and that never looks at them."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def line(database_url: Secret, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
    """The way to Postgres that the API takes, whose answers are waited for shortly."""
    monkeypatch.setattr(pool, "MAX_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(engine, "MAX_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(connect, "CONNECT_ARGS", {**connect.CONNECT_ARGS, "connect_timeout": 2})
    monkeypatch.setenv("AUTH0_HOOK_SECRET", SECRET)
    address = urlsplit(database_url.reveal())
    with forwarder(address.port or 5432) as made:
        netloc = f"{address.netloc.rpartition(':')[0]}:{made.port}"
        monkeypatch.setenv("DATABASE_URL", address._replace(netloc=netloc).geturl())
        yield made


@pytest.fixture
def api(line: Forwarder, environment: Path, tenant: Emulation, api_key: str) -> Iterator[ApiClient]:
    environment.write_text(f"{SETTINGS}\n{tenant.config_toml()}", encoding="utf-8")
    with served(load()) as url:
        client = ApiClient(url)
        yield client
        client.close()


async def test_a_hung_postgres_costs_a_while(
    api: ApiClient, api_key: str, rows: Rows, sql: Sql, line: Forwarder, hole: int
) -> None:
    """Readers, waiters and hooks are told to come again, and served when Postgres answers again."""
    sql("UPDATE consumers SET refresh = true, admins = true")
    await rows.add()
    await rows.add("oauth2|u2", subject="u2", expires_in=5)
    await rows.add(user_id="", subject="")
    assert api.call(f"{USER}/tokens/custom", api_key).status_code == 200
    waiter = Caller(f"{api.url}{STALE}/tokens/custom?wait=30", api_key)
    await until_async(lambda: bool(sql("SELECT 1 FROM refresh_requests")))
    real, line.target = line.target, hole
    assert line.go_dead() > 0
    body = {"json": {"access_token": "x"}}
    callers = [
        Caller(f"{api.url}{path}", api_key, method, **(body if path.endswith("rejected") else {}))
        for path, method in ROUTES.items()
    ]
    event = {"log_id": "1", "data": {"type": "s", "user_id": "oauth2|u1"}}
    callers.append(Caller(f"{api.url}/v1/hooks/auth0", SECRET, "POST", json=event))
    for caller in (waiter, *callers):
        answer = await asyncio.to_thread(caller.ended)
        assert is_unavailable(answer), answer.text
    assert api.call("/healthz").status_code == 200
    line.target = real
    await until_async(lambda: api.call(f"{USER}/tokens/custom", api_key).status_code == 200)
    await until_async(lambda: api.call("/readyz").status_code == 200)


async def test_a_hung_redis_is_no_trouble(
    environment: Path, api_key: str, tenant: Emulation, rows: Rows, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the API waits for Redis."""
    await rows.add()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{hole}/0")
    environment.write_text(f"{SETTINGS}\n{tenant.config_toml()}", encoding="utf-8")  # noqa: ASYNC240  # a small file
    with served(load()) as url:
        client = ApiClient(url)
        assert client.call(f"{USER}/tokens/custom", api_key).status_code == 200
        assert client.call("/readyz").status_code == 200
        assert client.call("/metrics").status_code == 200
        client.close()


async def test_a_hung_key_set_is_no_trouble_to_others(
    environment: Path, api_key: str, tenant: Emulation, rows: Rows, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose token cannot be verified is told to come again; who brings an API key is served meanwhile."""
    await rows.add()
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0)
    issuer = f'issuer = "http://127.0.0.1:{hole}/"\n'
    environment.write_text(f"{SETTINGS}{issuer}\n{tenant.config_toml()}", encoding="utf-8")  # noqa: ASYNC240  # small
    path = f"{USER}/tokens/custom"
    with served(load()) as url:
        strangers = [Caller(f"{url}{path}", tenant.issue_access_token()) for _ in range(5)]
        known = Caller(f"{url}{path}", api_key)
        assert (await asyncio.to_thread(known.ended)).status_code == 200
        assert any(each.is_alive() for each in strangers)
        for each in strangers:
            assert is_unavailable(await asyncio.to_thread(each.ended))
