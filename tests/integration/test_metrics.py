"""What Prometheus is shown of a vault, and by which processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from emulators.client import Emulation
from tests.support.metrics import all_metrics, sample, samples
from tests.support.ports import free_port
from tests.support.processes import site
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker import tasks
from worker.bootsteps import has_begun
from worker.embedded import Servers
from worker.metrics import vault_metrics
from worker.metrics.vault_metrics import VaultMetrics
from worker.runtime import Runtime
from worker.vault.status.status import load_status
from worker.vault.vault import Database, Vault, open_database

NOWHERE = Secret("redis://127.0.0.1:1/0")
CUSTOM = {"tenant": "default", "connection": "custom"}


async def scrape(metrics: VaultMetrics, database: Database) -> dict[str, float]:
    """Refresh and read."""
    await metrics.refresh(database, [])
    registry = CollectorRegistry()
    registry.register(metrics)
    return samples(generate_latest(registry).decode())


async def test_the_gauges_count_as_status_does(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Grants by state, ended tokens and lateness are those of `token-vault status`; nothing names a user."""
    await rows.add("oauth2|u1", subject="u1", expires_in=600)
    await rows.add("oauth2|u2", subject="u2", expires_in=-10)
    await rows.add("oauth2|u3", subject="u3", reason="invalid_grant", state="reauthorization_required")
    sql("UPDATE grants SET due_at = now() - interval '90 s' WHERE user_id = 'oauth2|u2'")
    sql("UPDATE connections SET circuit_opened_at = now(), circuit_until = now(), circuit_code = 'outage',"
        " circuit_blame = 'nobody'")  # fmt: skip
    found = await scrape(VaultMetrics(), vault)
    status = await load_status(vault, ["default"])
    assert status["grants"] == {"active": 1, "ended": 1, "reauthorization_required": 1}
    for state, number in status["grants"].items():
        assert found[sample("grants", **CUSTOM, state=state)] == number
    assert found[sample("ended_tokens", **CUSTOM)] == status["grants"]["ended"]
    assert found[sample("late_renewals", **CUSTOM)] == status["late"]["grants"] == 1
    assert 90 <= found[sample("renewal_lag_seconds", **CUSTOM)] < 600
    assert 0 < found[sample("soonest_end_seconds", **CUSTOM)] <= 600
    assert found[sample("circuit_open", **CUSTOM, blame="nobody")] == 1
    assert found[sample("workers", queue="renew")] == 0
    assert found["token_vault_database_up"] == 1
    assert not [name for name in found if "oauth2|u" in name]
    sql("UPDATE connections SET problem = 'development_keys'")
    unrenewable = await scrape(VaultMetrics(), vault)
    assert (
        unrenewable[sample("late_renewals", **CUSTOM)]
        == unrenewable[sample("renewal_lag_seconds", **CUSTOM)]
        == 0
    )


async def test_what_is_held_back_is_not_late_and_not_untold(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A refused client, a pause and a death hold renewals back, and each is told as what it is; an outage is late."""
    await rows.add("oauth2|u1", subject="u1")
    await rows.add("oauth2|u2", subject="u2", reason="invalid_grant", state="reauthorization_required")
    sql("UPDATE grants SET due_at = now() - interval '1 h'")

    async def look() -> tuple[dict[str, float], dict[str, Any], float]:
        """Return the gauges, what status holds back, and the lag, once both say how many are late."""
        found, status = await scrape(VaultMetrics(), vault), await load_status(vault, ["default"])
        assert found[sample("late_renewals", **CUSTOM)] == status["late"]["grants"]
        return found, status["held_back"], found[sample("renewal_lag_seconds", **CUSTOM)]

    circuit = (
        "UPDATE connections SET circuit_opened_at = now(), circuit_until = now(), circuit_code = 'x',"
        " circuit_blame = %s"
    )
    sql(circuit, "operator")
    found, held_back, lag = await look()
    assert (held_back, lag) == ({"blocked": 1}, 0)
    assert found[sample("grants", **CUSTOM, state="blocked")] == 1
    assert found[sample("circuit_open", **CUSTOM, blame="operator")] == 1
    sql(circuit, "nobody")
    _, held_back, lag = await look()
    assert (held_back, lag >= 3600) == ({"away": 1}, True)
    sql(
        "INSERT INTO pauses (tenant, connection, since, reason, paused_by) VALUES ('', '', now(), 'a move', 'ann')"
    )
    found, held_back, lag = await look()
    assert (held_back, lag) == ({"paused": 1}, 0)
    assert found[sample("grants", **CUSTOM, state="paused")] == 1


async def test_a_pause_is_measured(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A pause of everything shows for how long each connection has been paused."""
    await rows.add()
    assert sample("paused_seconds", **CUSTOM) not in await scrape(VaultMetrics(), vault)
    sql("INSERT INTO pauses (tenant, connection, since, reason, paused_by)"
        " VALUES ('', '', now() - interval '1 h', 'a move', 'ann')")  # fmt: skip
    assert 3600 <= (await scrape(VaultMetrics(), vault))[sample("paused_seconds", **CUSTOM)] < 7200


async def test_many_scrapes_ask_postgres_once(
    vault: Vault, rows: Rows, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted is shown for some seconds, whoever asks."""
    await rows.add()
    metrics = VaultMetrics()
    state = sample("grants", **CUSTOM, state="active")
    assert (await scrape(metrics, vault))[state] == 1
    sql("UPDATE grants SET state = 'unrenewable'")
    for _ in range(10):
        assert (await scrape(metrics, vault))[state] == 1
    monkeypatch.setattr(vault_metrics, "CACHE_SECONDS", 0.0)
    assert state not in await scrape(metrics, vault)


async def test_a_database_that_is_away_shows_nothing_old(
    vault: Vault, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer the gauges are absent, and one says why."""
    await rows.add()
    metrics = VaultMetrics()
    await scrape(metrics, vault)
    monkeypatch.setattr(vault_metrics, "CACHE_SECONDS", 0.0)
    async with open_database(Secret("postgresql://nobody@127.0.0.1:1/none"), connections=1) as away:
        assert await scrape(metrics, away) == {"token_vault_database_up": 0}


async def test_a_worker_and_beat_are_alive_without_redis(
    tenant: Emulation, rows: Rows, database_url: Secret, tmp_path: Path
) -> None:
    """Both show metrics and liveness where asked for, and are not ready yet, while they wait for Redis."""
    tenant.add_connection("custom", "oauth2", "custom")
    await rows.add()
    with site(Servers(database_url, NOWHERE), tenant, tmp_path, schedule="") as made:
        ports = {}
        for name in ("renew", "beat"):
            ports[name] = made.environment["TOKEN_VAULT_METRICS_PORT"] = str(free_port())
            made.environment["TOKEN_VAULT_LIVENESS_FILE"] = str(tmp_path / f"{name}.alive")
            made.worker(name, "renew", ready=False) if name == "renew" else made.beat()

        def get(name: str, path: str) -> httpx.Response | None:
            try:
                return httpx.get(f"http://127.0.0.1:{ports[name]}{path}", trust_env=False)
            except httpx.TransportError:
                return None

        for name in ports:
            assert until(partial(get, name, "/healthz"), f"{name} answers").status_code == 200
            until((tmp_path / f"{name}.alive").exists)
            assert until(partial(get, name, "/readyz"), f"{name} answers").status_code == 503
        made.processes[1].says("beat.broker_lost")

        def measured() -> dict[str, float] | None:
            found = samples(until(partial(get, "renew", "/metrics")).text)
            return (
                found if found[sample("database_up")] else None
            )  # a busy machine may take too long to answer

        found = until(measured, "Postgres answers")
        assert found[sample("grants", **CUSTOM, state="unrenewable")] == 1  # the connection was never synced
        assert found[sample("spool_files", state="waiting")] == 0
        assert found["process_open_fds"] > 0
        assert "token_vault_grants" not in until(partial(get, "beat", "/metrics")).text
        assert {name.partition("{")[0] for name in found if name.startswith("token_vault_")} <= {
            f"{name}{suffix}" for name in all_metrics() for suffix in ("", "_bucket", "_sum", "_count")
        }  # fmt: skip


async def test_a_worker_is_ready_on_a_migrated_vault(
    open_worker: Callable[[], Awaitable[Runtime]], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It consumes, the vault is open, and the database is at this version: neither is enough alone."""
    runtime = await open_worker()
    monkeypatch.setattr(tasks.process, "runtime", lambda: runtime)
    worker = SimpleNamespace(consumes=True)
    assert has_begun(worker)
    assert not has_begun(SimpleNamespace(consumes=False))
    (found,) = sql("SELECT version_num FROM alembic_version")
    for other in ("0001", "9999"):
        sql("UPDATE alembic_version SET version_num = %s", other)
        try:
            assert not has_begun(worker)
        finally:
            sql("UPDATE alembic_version SET version_num = %s", found["version_num"])

    def fails() -> Runtime:
        raise TemporarilyUnavailable("Postgres does not answer", 1)

    monkeypatch.setattr(tasks.process, "runtime", fails)
    assert not has_begun(worker)
