"""One search for the app's request id, or one trace, shows the way from the app to the provider's answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from emulators.client import Emulation
from tests.support.api_server import ApiProcess, serving
from tests.support.collector import Collector, collecting
from tests.support.processes import Process, Site, site
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from token_vault.read_model import OF_REQUEST, REQUEST_REFRESH
from token_vault.secret import Secret
from worker.consumer_rules import hash_api_key, make_api_key
from worker.embedded import Servers
from worker.vault.vault import Vault

CONNECTION = "custom"
STALE = "UPDATE grants SET expires_at = now() + interval '1 s', obtained_at = now() - interval '1 h'"
TRACES = [f"{number:032x}" for number in (11, 12, 13)]
TRACEPARENTS = [f"00-{trace}-00f067aa0ba902b7-01" for trace in TRACES]

SEND = """
import json, os, sys
from celery import Celery
app = Celery("foreign", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
given = json.load(sys.stdin)
app.send_task("worker.refresh_token", kwargs=given["task"], queue="interactive", headers=given["headers"])
print(json.dumps(None))
"""
READ_TRACED = """
import json, sys
from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from token_vault import TokenVault
given = json.load(sys.stdin)
context.attach(TraceContextTextMapPropagator().extract({"traceparent": given["traceparent"]}))
with TokenVault.from_env() as vault:
    vault.user_token(**given["read"])
print(json.dumps(None))
"""


class Way(NamedTuple):
    """A worker whose user has a token that is about to end, and what is told of it."""

    site: Site
    worker: Process
    user: str
    collector: Collector
    sql: Sql

    def lines(self, request_id: str, process: Process | None = None) -> dict[str, dict[str, Any]]:
        """Wait until the renewal is told of; return the log lines that name the request, by event."""

        def found() -> dict[str, dict[str, Any]]:
            log = (process or self.worker).log
            lines = [json.loads(line) for line in log.splitlines() if f'"{request_id}"' in line]
            return {line["event"]: line for line in lines}

        until(lambda: found().keys() & {"provider.answered", "refresh.requested"}, f"{request_id} is told of")
        return found()

    def names(self, trace: str, expected: set[str]) -> set[str]:
        """Wait until these spans are in a trace, as each is sent at its own end; return the names of all."""

        def found() -> set[str] | None:
            names = {span.name for span in self.collector.spans if span.trace_id == trace}
            return names if expected <= names else None

        return until(found, f"trace {trace} is complete")


@pytest.fixture
async def way(
    tenant: Emulation,
    open_worker: Callable[[], Any],
    sql: Sql,
    database_url: Secret,
    redis_url: Secret,
    tmp_path: Path,
) -> AsyncIterator[Way]:
    """A worker, a user, and a collector."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    (user,) = tenant.add_users(CONNECTION, 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql(STALE)
    with (
        collecting() as collector,
        site(
            Servers(database_url, redis_url),
            tenant,
            tmp_path,
            schedule="",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_BSP_SCHEDULE_DELAY="50",
        ) as made,
    ):
        yield Way(made, made.worker("interactive", "interactive"), user, collector, sql)


async def test_a_request_is_followed_to_the_provider(way: Way, environment: Path, tmp_path: Path) -> None:
    """A reader's id, a Celery message's and an HTTP request's are in log and trace of the provider's answer."""
    renewal = {"refresh", "renew", "POST token endpoint", "commit"}
    read = {"user_id": way.user, "connection": CONNECTION, "wait": 30, "request_id": "of-the-app-1"}
    way.site.run(READ_TRACED, {"read": read, "traceparent": TRACEPARENTS[0]})
    until(lambda: "refresh_request.finished" in way.worker.log)
    found = way.lines("of-the-app-1")
    assert found["provider.answered"]["answer"] == "pair"
    assert found["provider.answered"]["tenant"] == "default"
    assert found["provider.answered"]["trace_id"] == TRACES[0]
    assert found["refresh_request.finished"]["outcome"] == "renewed"
    expected = {"refresh_request", *renewal}
    assert way.names(TRACES[0], expected) == expected

    way.sql(STALE)
    headers = {"request_id": "of-celery-1", "traceparent": TRACEPARENTS[1]}
    way.site.run(SEND, {"task": {"user_id": way.user, "connection": CONNECTION}, "headers": headers})
    answered = way.lines("of-celery-1")["provider.answered"]
    assert answered["task"] == "worker.refresh_token"
    assert answered["task_id"]
    assert way.names(TRACES[1], renewal) == renewal

    way.sql("UPDATE grants SET obtained_at = now() - interval '10 min'")
    key = make_api_key()
    way.sql(
        "INSERT INTO consumers (name, api_key_hash, connections, users, admins, refresh)"
        " VALUES ('calendar', %s, '{custom}', true, false, true)",
        hash_api_key(key),
    )
    with serving(tmp_path, **_traced(way)) as api:
        refresh_over_http(api, way.user, key)
        assert "refresh.requested" in way.lines("of-http-1", api.process)
        answered = way.lines("of-http-1")["provider.answered"]
        assert answered["answer"] == "pair"
        assert answered["trace_id"] == TRACES[2]
        route = "POST /v1/users/{user_id:path}/tokens/{connection}/refresh"
        expected = {route, "refresh_request", *renewal}
        assert way.names(TRACES[2], expected) == expected
    spans = {span.name: span for span in way.collector.spans if span.trace_id == TRACES[2]}
    assert spans[route].service == "token-vault-api"
    assert spans["refresh_request"].service == "token-vault-worker"
    assert spans["refresh_request"].parent_id == spans[route].span_id
    assert spans[route].attributes["token_vault.request_id"] == "of-http-1"
    assert way.user.encode() not in way.collector.content


def _traced(way: Way) -> dict[str, str]:
    return {name: value for name, value in way.site.environment.items() if name.startswith("OTEL_")}


def refresh_over_http(api: ApiProcess, user: str, key: str) -> None:
    """Have the token replaced, within a trace."""
    response = api.call(
        f"/v1/users/{user.replace('|', '%7C')}/tokens/{CONNECTION}/refresh?wait=30",
        key,
        method="POST",
        headers={"x-request-id": "of-http-1", "traceparent": TRACEPARENTS[2]},
    )
    assert response.status_code == 200, response.text
    assert response.headers["traceparent"] == TRACEPARENTS[2]


async def test_a_request_without_a_name_takes_no_other_s(vault: Vault, sql: Sql) -> None:
    """Id and trace last as long as the statement that names them, and what could stand in no log is left out."""
    rows = Rows(vault, sql)
    for name in ("a", "b", "c"):
        await rows.add(f"oauth2|{name}", subject=name)
    first, second, third = (row["id"] for row in sql("SELECT id FROM grants ORDER BY id"))
    sql(REQUEST_REFRESH + OF_REQUEST, first, None, 60, "mine-1", TRACEPARENTS[0])
    sql(REQUEST_REFRESH, second, None, 60)
    sql(REQUEST_REFRESH + OF_REQUEST, third, None, 60, "two\nlines", f"{TRACEPARENTS[0]}\n")
    named = sql("SELECT request_id, traceparent FROM refresh_requests ORDER BY grant_id")
    assert [tuple(row.values()) for row in named] == [("mine-1", TRACEPARENTS[0]), (None, None), (None, None)]
    sql(REQUEST_REFRESH + OF_REQUEST, second, 7200, 60, None, TRACEPARENTS[1])
    (asked,) = sql("SELECT request_id, traceparent FROM refresh_requests WHERE grant_id = %s", second)
    assert asked == {"request_id": None, "traceparent": TRACEPARENTS[1]}
