"""Sync and renewal where the Internet is reached through a proxy."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emulators.client import Emulation
from tests.support.connect_proxy import ConnectProxy, connect_proxy
from tests.support.tls_server import tls_server
from worker import cli
from worker.http import transport
from worker.renewal.outcome import Outcome
from worker.runtime import open_runtime
from worker.settings import load

Sql = Callable[..., list[dict[str, Any]]]
HOST = "internet.invalid"


@pytest.fixture
def proxy(
    environment: Path, tenant: Emulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ConnectProxy]:
    """The only way to the tenant and its provider, which have a name that nobody here resolves."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_users("bitbucket", 7)
    port = urlsplit(tenant.base_url).port
    assert port
    with tls_server(port, tmp_path, HOST) as server, connect_proxy() as running:
        trusting = ssl.create_default_context(cafile=str(server.certificate))
        monkeypatch.setattr(transport, "tls_context", lambda: trusting)
        running.names[f"{HOST}:443"] = server.port
        monkeypatch.setenv("HTTPS_PROXY", f"http://vault:canary@127.0.0.1:{running.port}")
        monkeypatch.setenv("AUTH0_DOMAIN", tenant.auth0_domain.replace(tenant.base_url, f"https://{HOST}"))
        environment.write_text(tenant.config_toml().replace(tenant.base_url, f"https://{HOST}"))
        yield running


async def test_a_proxy_that_fails_blames_nobody(
    proxy: ConnectProxy, tenant: Emulation, sql: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    """No grant is in doubt and no circuit opens, doctor names the proxy, and all is renewed once it works."""
    async with open_runtime(load(), connections=5) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        sql("UPDATE grants SET due_at = now()")
        proxy.failure = 407
        for _ in range(6):  # more than open a circuit
            sql("UPDATE grants SET due_at = now()")
            # The next call would fail the same way: each run makes one.
            assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.UNSENT: 1}
        assert sql("SELECT DISTINCT state, attempts FROM grants") == [{"state": "active", "attempts": 0}]
        assert sql("SELECT count(*) AS refusals FROM refusals") == [{"refusals": 0}]
        assert sql("SELECT circuit_code FROM connections") == [{"circuit_code": None}]
        assert {row["last_error"] for row in sql("SELECT last_error FROM grants")} >= {"proxy_failed"}
        capsys.readouterr()
        assert await asyncio.to_thread(cli.main, ["doctor", "--json"]) == 1
        found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
        assert "correct them in HTTPS_PROXY" in found["outgoing proxy"]["message"]
        assert "canary" not in str(found)
        proxy.failure = None
        sql("UPDATE grants SET due_at = now()")
        assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 7}
        assert await asyncio.to_thread(cli.main, ["doctor", "--json"]) == 0
    assert tenant.double_spends() == 0
