"""Where a provider lists addresses, nothing is sent from another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from emulators.client import Emulation
from worker import cli, egress
from worker.renewal.outcome import Outcome
from worker.runtime import open_runtime
from worker.settings import load

Sql = Callable[..., list[dict[str, Any]]]


class CheckService:
    """Answers as the operator's service does.

    Attributes:
        answer: the body; None for a failure.
        asked: how often it was asked.
    """

    def __init__(self) -> None:
        self.answer: str | None = "203.0.113.7\n"
        self.asked = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                self.send_response(200 if service.answer else 503)
                self.end_headers()
                self.wfile.write((service.answer or "203.0.113.7").encode())

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def service() -> Iterator[CheckService]:
    """The service that tells this process's address."""
    running = CheckService()
    thread = Thread(target=running.server.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.fixture
def due(environment: Path, tenant: Emulation, service: CheckService, sql: Sql) -> Callable[[], None]:
    """Two connections: one whose provider lists addresses, and one that it is nothing to."""
    tenant.configure_provider("salesforce", like="custom")
    for name in ("salesforce", "bitbucket"):
        tenant.add_connection(name, name, name)
        tenant.add_users(name, 1)
    egress_toml = f'egress = ["203.0.113.0/29"]\negress_check_url = "{service.url}"\n'
    environment.write_text(egress_toml + tenant.config_toml())
    return lambda: (sql("UPDATE grants SET due_at = now()"), None)[1]


async def test_nothing_is_sent_from_an_address_that_is_not_listed(
    due: Callable[[], None],
    service: CheckService,
    tenant: Emulation,
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong or unknown address stops the connections concerned, is an event, and is over by itself."""
    monkeypatch.setattr(egress, "KNOWN_SECONDS", 0)
    monkeypatch.setattr(egress, "WRONG_SECONDS", 0)
    async with open_runtime(load(), connections=5) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        due()
        assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 2}
        for answer in ("198.51.100.1", None, "no address"):
            service.answer = answer
            due()
            assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 1}
            [row] = sql("SELECT name, problem, problem_message FROM connections WHERE problem IS NOT NULL")
            assert (row["name"], row["problem"]) == ("salesforce", "egress_changed")
            assert "203.0.113.0/29" in row["problem_message"]
        events = "SELECT kind, reason FROM outbox WHERE kind LIKE 'connection.%'"
        assert sql(events) == [{"kind": "connection.broken", "reason": "egress_changed"}]
        capsys.readouterr()
        assert await asyncio.to_thread(cli.main, ["doctor", "--json"]) == 1
        found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
        assert "unknown" in found["egress"]["message"]
        assert found["connection salesforce"]["result"] == "warn"
        service.answer = '{"ip": "203.0.113.6"}'
        due()
        assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 2}
        assert sql("SELECT name FROM connections WHERE problem IS NOT NULL") == []
        assert {row["kind"] for row in sql(events)} == {"connection.broken", "connection.mended"}
    assert tenant.double_spends() == 0


async def test_the_address_is_asked_for_seldom(due: Callable[[], None], service: CheckService) -> None:
    """One answer serves all looks of some minutes."""
    async with open_runtime(load(), connections=5) as runtime:
        await (await runtime.tenant_sync("default")).sync_all()
        due()
        await runtime.engine.renew_due(runtime.tenants)
        await runtime.connections.load(runtime.tenants)
    assert service.asked == 1
