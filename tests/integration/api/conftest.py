"""Fixtures: a served vault, consumers, and rows to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, ApiProcess, serving, serving_here
from tests.support.proxied_api import ORIGIN, RECONNECT_SECRET, Proxied
from tests.support.readers import Sql
from tests.support.scripted_upstream import upstream
from tests.support.served_api import AUDIENCE, issuer, served
from tests.support.synced_user import CONNECTION, sync_user
from worker.consumer_rules import hash_api_key, make_api_key
from worker.http.transport import tls_context
from worker.runtime import Runtime
from worker.settings import load
from worker.vault.vault import Vault

CLIENT_ID = "calendar-app"


@pytest.fixture
def api_key(sql: Sql) -> str:
    """The key of a consumer ``calendar``, which is a machine application too."""
    key = make_api_key()
    sql(
        "INSERT INTO consumers (name, client_id, api_key_hash, connections, users, admins, refresh)"
        " VALUES ('calendar', %s, %s, '{custom,goo*}', true, false, false)",
        CLIENT_ID, hash_api_key(key),
    )  # fmt: skip
    return key


@pytest.fixture
def api_settings(environment: Path, tenant: Emulation, vault: Vault, api_key: str) -> None:
    """Set what the API needs to serve the vault, with one consumer."""
    environment.write_text(f"{SETTINGS}\n{tenant.config_toml()}", encoding="utf-8")


@pytest.fixture
def api(api_settings: None) -> Iterator[ApiClient]:
    """The served vault."""
    with serving_here(load()) as client:
        yield client


@pytest.fixture
def api_process(api_settings: None, tmp_path: Path) -> Iterator[ApiProcess]:
    """The vault as ``token-vault serve`` serves it, with its log."""
    with serving(tmp_path) as client:
        yield client


@pytest.fixture
def proxy_limits() -> str:
    """The bounds of the proxy; a module may have others."""
    return "max_request_bytes = 1_000_000\nmax_response_bytes = 2_000_000\ntimeout = 2\n"


@pytest.fixture
async def proxied(
    tenant: Emulation,
    environment: Path,
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Callable[..., list[dict[str, Any]]],
    proxy_limits: str,
) -> AsyncIterator[Proxied]:
    """A vault with one user, and a provider behind its proxy."""
    await sync_user(tenant, open_worker, sql)
    # A token that is a minute old may be rejected.
    sql("UPDATE grants SET obtained_at = now() - interval '10 minutes'")
    runtime = await open_worker()
    with issuer() as issued, upstream() as provider:
        environment.write_text(  # noqa: ASYNC240  # a small file, before anything runs
            f"""{tenant.config_toml()}
[api]
audience = "{AUDIENCE}"
cache = false
issuer = "{issued.url}"
origins = ["{ORIGIN}"]

[reconnect]
client_id = "web-app"
redirect_uri = "{ORIGIN}/reconnected"
secret = "{RECONNECT_SECRET.reveal()}"

[proxy."{CONNECTION}"]
base_url = "{provider.url}"
allow = ["GET /calendar/v3/*", "HEAD /calendar/v3/*", "POST /calendar/v3/*", "DELETE /calendar/v3/*"]
{proxy_limits}""",
            encoding="utf-8",
        )
        with served(load()) as url:
            async with httpx.AsyncClient(trust_env=False, timeout=30, verify=tls_context()) as client:
                yield Proxied(url, issued, provider, runtime, client)
