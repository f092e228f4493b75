"""The worker's side of refresh requests: the rows are the truth, a wakeup is a hint, and an outage ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from emulators.client import Emulation
from tests.support.backends import listens
from tests.support.readers import Sql, on_demand_worker
from tests.support.wait import until_async
from token_vault.read_model import REPORT_REJECTED, REQUEST_REFRESH
from worker.renewal.on_demand import Refreshed
from worker.renewal.refresh_requests import RefreshRequests
from worker.runtime import Runtime
from worker.vault import wakeups
from worker.vault.refresh_requests.queue import CHANNEL

CONNECTION = "custom"
OpenWorker = Callable[[], Awaitable[Runtime]]

# What anybody may send, who may connect.
PAYLOADS = ["", "²", "٣", "-1", "9" * 7000, "1e9", "{}", "'; DROP TABLE grants --", "\U0001f600"]


@pytest.fixture
async def runtime(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> Runtime:
    """A vault with stale tokens of three users, and what renews them."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    tenant.add_users(CONNECTION, 3)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql("UPDATE grants SET expires_at = now() + interval '3 s', obtained_at = now() - interval '1 h'")
    return runtime


@pytest.fixture
def grants(runtime: Runtime, sql: Sql) -> list[int]:
    """The ids of the users' grants."""
    return [row["id"] for row in sql("SELECT id FROM grants ORDER BY id")]


@asynccontextmanager
async def without_wakeups(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Refreshed]]:
    """Carry out requests with nothing that wakes."""

    async def silence(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(wakeups, "listen", silence)
    async with on_demand_worker(runtime) as results:
        yield results


async def test_a_request_is_carried_out_at_once(
    runtime: Runtime, grants: list[int], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is woken by a request: it does not wait for its next look."""
    monkeypatch.setattr(wakeups, "SWEEP_SECONDS", 3600)
    async with on_demand_worker(runtime) as results:
        await until_async(lambda: listens(sql, CHANNEL))
        for number, grant_id in enumerate(grants, start=1):
            sql(REQUEST_REFRESH, grant_id, None, 60)
            await until_async(lambda number=number: len(results) == number)  # type: ignore[misc]
    assert all(refreshed.renewed for refreshed in results)


async def test_a_lost_wakeup_costs_a_second(
    runtime: Runtime, grants: list[int], sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no wakeup comes, requests are found all the same."""
    async with without_wakeups(runtime, monkeypatch) as results:
        sql(REQUEST_REFRESH, grants[0], None, 60)
        await until_async(lambda: len(results) == 1)


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_wakeup_is_never_read(
    runtime: Runtime, grants: list[int], sql: Sql, monkeypatch: pytest.MonkeyPatch, payload: str
) -> None:
    """Whatever somebody sends, workers look at the rows, and listen on."""
    monkeypatch.setattr(wakeups, "SWEEP_SECONDS", 3600)
    async with on_demand_worker(runtime) as results:
        await until_async(lambda: listens(sql, CHANNEL))
        for _ in range(3):
            sql("SELECT pg_notify('token_vault_requests', %s)", payload)
        sql(REQUEST_REFRESH, grants[0], None, 60)
        await until_async(lambda: len(results) == 1)


async def test_a_restart_of_postgres_ends_nothing(runtime: Runtime, grants: list[int], sql: Sql) -> None:
    """When all connections are lost, workers listen and look again over new ones."""
    async with on_demand_worker(runtime) as results:
        for number, grant_id in enumerate(grants, start=1):
            sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            sql(REQUEST_REFRESH, grant_id, None, 60)
            await until_async(lambda number=number: len(results) >= number)  # type: ignore[misc]


async def test_many_workers_make_one_call(
    runtime: Runtime, tenant: Emulation, grants: list[int], sql: Sql
) -> None:
    """However many workers are woken, one of them carries out a request."""
    tenant.reset_calls()
    workers = [RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants) for _ in range(5)]
    working = [asyncio.create_task(worker.run()) for worker in workers]
    for grant_id in grants:
        sql(REQUEST_REFRESH, grant_id, None, 60)
    await until_async(lambda: not sql("SELECT 1 FROM refresh_requests WHERE handled_at IS NULL"))
    for worker in workers:
        worker.stop()
    await asyncio.gather(*working)
    assert sum(tenant.calls("/idp").values()) == len(grants)


async def test_a_stopping_worker_ends_what_it_began(
    runtime: Runtime, tenant: Emulation, grants: list[int], sql: Sql
) -> None:
    """A worker that is to stop sees its refreshes to their end, and claims nothing more."""
    tenant.fail_next("/idp/custom", 1, "delay:0.5")
    worker = RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants)
    working = asyncio.create_task(worker.run())
    sql(REQUEST_REFRESH, grants[0], None, 60)
    await until_async(lambda: sql("SELECT 1 FROM grants WHERE claim_owner IS NOT NULL"))
    worker.stop()
    await working
    assert sql("SELECT handled_at IS NOT NULL AS done FROM refresh_requests") == [{"done": True}]
    sql(REQUEST_REFRESH, grants[1], None, 60)
    assert len(sql("SELECT 1 FROM refresh_requests WHERE handled_at IS NULL AND claimed_until IS NULL")) == 1


async def test_a_grant_that_was_erased_meanwhile(runtime: Runtime, grants: list[int], sql: Sql) -> None:
    """A request of a grant that is there no more is done with."""
    sql(REQUEST_REFRESH, grants[0], None, 60)
    sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL"
    )
    async with on_demand_worker(runtime) as results:
        await until_async(lambda: not sql("SELECT 1 FROM refresh_requests WHERE handled_at IS NULL"))
    assert results == []


async def test_a_rejected_token_is_renewed_once(
    runtime: Runtime, grants: list[int], sql: Sql, tenant: Emulation
) -> None:
    """One renewal follows however many report, and whoever reports every token costs one call a minute."""

    def calls() -> int:
        return len(tenant.call_log("/idp/custom/"))

    def age(seconds: float) -> None:
        for column in ("due_at", "requested_at", "wanted_until"):
            sql(f"UPDATE refresh_requests SET {column} = {column} - %s * interval '1 s'", seconds)

    sql(
        "UPDATE grants SET expires_at = now() + interval '1 h', obtained_at = now() - interval '61 s',"
        " obtained_from = 'renewal'"
    )
    async with on_demand_worker(runtime) as results:
        for _ in range(5):
            sql(REPORT_REJECTED, grants[0], 1)
        await until_async(lambda: len(results) == 1)
        assert results[0].renewed
        # Late reports of the token that was replaced ask for nothing.
        sql(REPORT_REJECTED, grants[0], 1)
        # The new one is not renewed before its minute is over, though the request comes to a worker.
        sql(REPORT_REJECTED, grants[0], 2)
        [request] = sql("SELECT * FROM refresh_requests WHERE handled_at IS NULL")
        assert request["due_at"] > request["requested_at"] + timedelta(seconds=30)
        age(90)
        await until_async(lambda: len(results) == 2)
        assert not results[1].renewed
        assert calls() == 1
        sql("UPDATE grants SET obtained_at = obtained_at - interval '61 s'")
        sql(REPORT_REJECTED, grants[0], 2)
        age(2)
        await until_async(lambda: len(results) == 3)
        assert results[2].renewed
        assert calls() == 2
