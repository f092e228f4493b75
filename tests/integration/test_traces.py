"""Traces lead from a tick to the commit, and are nobody's burden."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

from emulators.client import Emulation
from tests.support.canary_search import SecretSearch
from tests.support.collector import Collector, ReceivedSpan, collecting, collecting_here
from tests.support.processes import REPOSITORY
from tests.support.readers import Sql
from worker import traces
from worker.cli.checks import CheckResult
from worker.cli.network_checks import check_collector
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.traces import recorder

OpenWorker = Callable[[], Awaitable[Runtime]]
CLIENT = SpanKind.CLIENT.value + 1  # as the protocol counts


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that gets this process's traces."""
    with collecting_here(monkeypatch) as found:
        yield found


def children(trace: list[ReceivedSpan], parent: ReceivedSpan) -> dict[str, ReceivedSpan]:
    """The spans below a span, by name."""
    return {each.name: each for each in trace if each.parent_id == parent.span_id}


async def test_a_trace_leads_from_the_tick_to_the_commit(
    collector: Collector, tenant: Emulation, open_worker: OpenWorker, sql: Sql
) -> None:
    """Each renewal of a run has its call and its commit; a sync has its pages; a tick without work leaves nothing."""
    tenant.add_connection("custom", "oauth2", "custom")
    tenant.add_users("custom", 3)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    await runtime.engine.renew_due(runtime.tenants)  # nothing is due
    traces.flush()
    assert "renew_due" not in [span.name for span in collector.spans]
    synced = collector.trace_of("sync all")
    (root,) = [span for span in synced if span.name == "sync all"]
    found = children(synced, root)
    assert found["ingest_page"].attributes == {"token_vault.tenant": "default", "token_vault.users": 3}
    listed = found["GET /api/v2/users"]
    assert listed.kind == CLIENT
    assert listed.attributes["http.response.status_code"] == 200

    sql("UPDATE grants SET due_at = now()")
    tenant.revoke(sql("SELECT user_id FROM grants ORDER BY id")[0]["user_id"], "custom")
    await runtime.engine.renew_due(runtime.tenants)
    traces.flush()
    trace = collector.trace_of("renew_due")
    (run,) = [span for span in trace if not span.parent_id]
    renewals = [span for span in trace if span.parent_id == run.span_id]
    assert {span.name for span in renewals} == {"renew"}
    outcomes = {}
    for renewal in renewals:
        within = children(trace, renewal)
        outcomes[renewal.attributes["token_vault.grant"]] = renewal.attributes["token_vault.outcome"]
        call = within["POST token endpoint"]
        assert call.kind == CLIENT
        assert call.attributes["token_vault.provider"] == "oauth2"
        if renewal.attributes["token_vault.outcome"] == "renewed":
            assert within["commit"].attributes["token_vault.outcome"] == "renewed"
            assert call.attributes["http.response.status_code"] == 200
        else:
            assert within.keys() == {"POST token endpoint", "commit_refusal"}
            assert (call.is_error, call.attributes["error.type"]) == (True, "400")
        assert renewal.attributes["token_vault.connection"] == "custom"
    assert sorted(outcomes) == [row["id"] for row in sql("SELECT id FROM grants ORDER BY id")]
    assert sorted(outcomes.values()) == ["reauthorization_required", "renewed", "renewed"]
    assert {span.service for span in collector.spans} == {"tests"}


async def test_no_token_reaches_the_collector(
    collector: Collector, tenant: Emulation, open_worker: OpenWorker, sql: Sql
) -> None:
    """Neither a token in a query, nor one that a provider says back, nor an exception's text is in any span."""
    tenant.add_connection("facebook", "facebook", "facebook")
    users = tenant.add_users("facebook", 4)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    tokens = {user: str(tenant.live(user, "facebook")["access_token"]) for user in users}
    path = urlsplit(tenant.token_url("facebook")).path
    for token in tokens.values():
        for fault in (
            f"error:invalid_grant_{token}:{token}",
            f'override:{{"expires_in": "{token}"}}',
            "reset_after",
        ):
            sql("UPDATE grants SET due_at = now()")
            tenant.fail_next(path, 1, fault)
            await runtime.engine.renew_due(runtime.tenants)
    with pytest.raises(ValueError, match="canary"), traces.span("renew"):
        raise ValueError("canary of an exception")
    traces.flush()
    calls = [span for span in collector.spans if span.name == "GET token endpoint"]
    assert {"200", "400", "connection_lost"} <= {
        str(call.attributes.get("error.type", call.attributes.get("http.response.status_code")))
        for call in calls
    }
    secrets = tokens | {"exception": "canary of an exception"}
    assert SecretSearch(secrets).found(collector.content) == []


async def test_a_collector_that_hangs_holds_up_nothing(
    tenant: Emulation, open_worker: OpenWorker, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the collector takes a request and does not answer, renewals are made and a process ends."""
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.05)
    with collecting_here(monkeypatch, OTEL_EXPORTER_OTLP_TIMEOUT="3600") as collector:
        collector.receiver.open.clear()
        tenant.add_connection("custom", "oauth2", "custom")
        tenant.add_users("custom", 2)
        runtime = await open_worker()
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        traces.flush()
        sql("UPDATE grants SET due_at = now()")
        assert (await runtime.engine.renew_due(runtime.tenants))[Outcome.RENEWED] == 2
        for _ in range(10_000):  # more than the queue holds
            with traces.span("renew"):
                pass
        traces.flush()
        assert collector.receiver.at_once > 0  # it has not answered all that was sent


def test_a_collector_that_refuses_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first failure and the end of an outage are logged, with the status and without a header."""
    secret = "key-of-the-collector"
    with (
        collecting_here(monkeypatch, OTEL_EXPORTER_OTLP_HEADERS=f"api-key={secret},{secret}") as collector,
        capture_logs() as logs,
    ):

        def export(status: int) -> None:
            collector.receiver.status = status
            with traces.span("renew"):
                pass
            traces.flush()

        for status in (401, 401, 200, 200, 413):
            export(status)
        assert collector.receiver.got[0].headers["api-key"] == secret
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("traces.export_failed", "status 401"),
        ("traces.export_resumed", None),
        ("traces.export_failed", "status 413"),
    ]
    assert secret not in caplog.text + repr(logs)


def test_doctor_tries_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it answers to an empty batch is told, as a warning at most; without one there is nothing to tell."""
    assert not check_collector()
    with collecting_here(monkeypatch) as collector:
        collector.receiver.status = 401
        (refused,) = check_collector()
        assert refused.result is CheckResult.WARN
        assert "127.0.0.1 takes no traces (status 401)" in refused.message
        collector.receiver.status = 200
        assert [check.result for check in check_collector()] == [CheckResult.OK]


def test_without_a_collector_nothing_is_imported() -> None:
    """A process that is told no collector, or told to send nothing, does not load OpenTelemetry."""
    program = (
        "import os, sys; from worker import logs, traces\n"
        "for given in {}, {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:1', 'OTEL_SDK_DISABLED': 'true'}:\n"
        "    os.environ.update(given); traces.start('tests'); traces.flush()\n"
        "    with traces.span('renew', tenant='a') as span: span.set(outcome='renewed')\n"
        "    assert span is traces.span('commit')\n"
        "assert not {name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'requests', 'google'}"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env={}, check=True)


def test_a_forked_process_sends_its_own() -> None:
    """Parent and child each send their own spans, over connections of their own."""
    program = (
        "import os; from worker import traces\n"
        "traces.start('parent')\n"
        "def tell(name):\n"
        "    with traces.span(name): pass\n"
        "    traces.flush()\n"
        "tell('before')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert traces.span('none') is traces.span('none')\n"
        "    traces.start('child'); tell('of the child'); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "tell('of the parent')"
    )
    with collecting() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment, check=True)
        found = sorted((span.name, span.service) for span in collector.spans)
    assert found == [("before", "parent"), ("of the child", "child"), ("of the parent", "parent")]
