"""Who edits a connection at Auth0 gets none of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emulators.client import Emulation
from tests.support.webhook_receiver import receiving
from worker import cli
from worker.runtime import Runtime, open_runtime
from worker.settings import load

Sql = Callable[..., list[dict[str, Any]]]


async def _command(*arguments: str) -> int:
    return await asyncio.to_thread(cli.main, list(arguments))


async def _renew(runtime: Runtime) -> int:
    assert (await (await runtime.tenant_sync("default")).sync_connections()).ok
    return sum((await runtime.engine.renew_due(runtime.tenants)).values())


@pytest.mark.parametrize("option", ["tokenURL", "token_endpoint"])
async def test_another_host_gets_nothing_until_it_is_trusted(
    tenant: Emulation, environment: Path, sql: Sql, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token URL that moves to another host gets no call, is reported, and is used once the operator trusts it."""
    tenant.configure_provider("acme", like="custom")
    tenant.add_connection("acme", "oauth2", "acme")
    tenant.set_connection_options("acme", tokenURL=tenant.token_url("acme"))
    tenant.add_users("acme", 1, expires_in=3600)
    with receiving() as stranger:
        async with open_runtime(load(), connections=5) as runtime:
            assert (await (await runtime.tenant_sync("default")).sync_all()).ok
            sql("UPDATE grants SET due_at = now()")
            assert await _renew(runtime) == 1
            tenant.set_connection_options("acme", **{"tokenURL": None, option: stranger.url})
            sql("UPDATE grants SET due_at = now()")
            assert await _renew(runtime) == 0
            assert stranger.got == []
        [row] = sql("SELECT problem, problem_message FROM connections")
        assert row["problem"] == "token_host_changed"
        assert "connections trust acme" in row["problem_message"]
        assert sql("SELECT kind, reason FROM outbox") == [
            {"kind": "connection.broken", "reason": "token_host_changed"}
        ]
        assert await _command("connections", "trust", "acme") == 0
        assert f"go to {urlsplit(stranger.url).netloc}" in capsys.readouterr().out
        async with open_runtime(load(), connections=5) as runtime:
            await _renew(runtime)
        assert [got.path for got in stranger.got] == ["/hook"]
    assert sql("SELECT problem FROM connections") == [{"problem": None}]


async def test_a_token_url_of_the_operators_needs_no_trust(
    tenant: Emulation, environment: Path, sql: Sql
) -> None:
    """A token URL in the TOML file is the operator's word, and what Auth0 shows beside it does not count."""
    tenant.configure_provider("acme", like="custom")
    tenant.add_connection("acme", "oauth2", "acme")
    tenant.add_users("acme", 1, expires_in=3600)
    config = f'[connections.acme]\ntoken_url = "{tenant.token_url("acme")}"\n'
    environment.write_text(config, encoding="utf-8")  # noqa: ASYNC240  # a test waits for nothing else
    async with open_runtime(load(), connections=5) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        tenant.set_connection_options("acme", tokenURL="https://stranger.example/token")
        sql("UPDATE grants SET due_at = now()")
        assert await _renew(runtime) == 1
    assert sql("SELECT problem, token_host FROM connections") == [{"problem": None, "token_host": None}]
    assert await _command("connections", "trust", "acme") == 2


async def test_trusting_names_what_is_wrong(environment: Path, tenant: Emulation) -> None:
    """A connection that nobody knows cannot be trusted."""
    assert await _command("connections", "trust", "nobody") == 2
