"""What beat's ticks make of full syncs: those that fail, those whose worker is killed, those that nobody can take over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from celery import Celery, current_app
from celery.exceptions import Retry

from emulators.client import Emulation
from tests.support.rows import Sql
from token_vault.secret import Secret
from worker import sync_schedule, tasks
from worker.auth0.errors import Auth0Unreachable
from worker.process import Process
from worker.runtime import Runtime, open_runtime
from worker.settings import Settings

Tick = Callable[[], Awaitable[bool]]


@pytest.fixture
async def runtime(tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]]) -> Runtime:
    """A vault beside a tenant of 350 users, whose calls do not wait between two attempts."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.seed_users(350, ["google-oauth2"])
    opened = await open_worker()
    (await opened.auth0("default"))._calls._retrier._sleep = lambda _: asyncio.sleep(0)
    return opened


@pytest.fixture
def tick(runtime: Runtime, tenant: Emulation) -> Tick:
    """Looks as a tick does; says whether Auth0 was asked for anything."""

    async def look() -> bool:
        tenant.reset_calls()
        try:
            await sync_schedule.sync_if_due(runtime, "default")
        except Auth0Unreachable:
            assert tenant.calls("/api/v2")
        return bool(tenant.calls("/api/v2"))

    return look


def pass_time(sql: Sql, seconds: float) -> None:
    """Let so much time pass for what is recorded."""
    sql(
        "UPDATE sync_runs SET started_at = started_at - make_interval(secs => %s),"
        " finished_at = finished_at - make_interval(secs => %s)", seconds, seconds,
    )  # fmt: skip


def users(sql: Sql) -> int:
    """How many users the vault holds tokens of."""
    return int(sql("SELECT count(*) AS n FROM grants WHERE user_id <> ''")[0]["n"])


async def test_a_scan_that_cannot_begin_is_tried_again_soon_then_less_often(
    tenant: Emulation, tick: Tick, sql: Sql
) -> None:
    """A minute after the first failure, twice as long after each further one, ten minutes at the most."""
    tenant.fail_next("/api/v2", 10_000, "503")
    assert await tick()
    for wait in (60, 120, 240, 480, 600, 600):
        pass_time(sql, wait - 5)
        assert not await tick()
        pass_time(sql, 6)
        assert await tick()
    assert len(sql("SELECT 1 FROM sync_runs WHERE scope = 'all' AND error IS NOT NULL")) == 7
    tenant.clear_faults()
    pass_time(sql, 601)
    assert await tick()
    assert users(sql) == 350
    tenant.fail_next("/api/v2", 10_000, "503")
    pass_time(sql, 86_401)
    assert await tick()
    pass_time(sql, 61)  # what failed before the last success is forgotten
    assert await tick()


async def test_a_scan_that_fails_midway_waits_too(
    tenant: Emulation, tick: Tick, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone on with after a minute, not by each tick."""
    monkeypatch.setattr(sync_schedule, "SCAN_SLICE_SECONDS", 0)
    await tick()
    assert users(sql) == 100
    tenant.fail_next("/api/v2/users", 10_000, "503")
    assert await tick()
    assert not await tick()
    tenant.clear_faults()
    assert not await tick()
    pass_time(sql, 61)
    while await tick():
        pass
    assert users(sql) == 350


async def test_a_scan_whose_worker_was_killed_goes_on_at_the_next_tick(tick: Tick, sql: Sql) -> None:
    """Before its first page too: a run that nobody ended has not failed."""
    sql("INSERT INTO sync_runs (tenant, scope, started_at) VALUES ('default', 'all', now())")
    assert await tick()
    assert users(sql) == 350


async def test_changes_are_read_once_for_two_beats(tenant: Emulation, runtime: Runtime, sql: Sql) -> None:
    """A tick soon after another costs no call; a later one also erases what has been missing for long."""
    await sync_schedule.sync_if_due(runtime, "default")
    await sync_schedule.sync_changes(runtime, "default")
    tenant.reset_calls()
    await sync_schedule.sync_changes(runtime, "default")
    assert tenant.calls("/api/v2") == {}
    [user] = sql("SELECT user_id FROM grants LIMIT 1")
    tenant.delete_user(user["user_id"])
    sql("UPDATE grants SET missing_since = now() - interval '1 d' WHERE user_id = %s", user["user_id"])
    pass_time(sql, runtime.settings.schedule.changes)
    await sync_schedule.sync_changes(runtime, "default")
    assert len(sql("SELECT 1 FROM grants WHERE state = 'erased'")) == 1


@pytest.fixture
def without_redis() -> Iterator[None]:
    """No Redis takes this application's messages."""
    before = current_app._get_current_object()
    with Celery("without-redis", broker="redis://127.0.0.1:1/0") as app:
        app.set_current()
        yield
    before.set_current()


@pytest.fixture
async def process(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run here as in a worker, over this runtime and its loop."""
    here, loop = Process(), asyncio.get_running_loop()
    monkeypatch.setattr(here, "runtime", lambda: runtime)
    monkeypatch.setattr(here, "_run", lambda work: asyncio.run_coroutine_threadsafe(work, loop).result())
    monkeypatch.setattr(tasks, "process", here)


@pytest.mark.usefixtures("process", "without_redis")
async def test_a_scan_goes_on_where_no_redis_takes_it_over(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis carries the word from one slice of a scan to the next; without it the worker goes on by itself."""
    monkeypatch.setattr(sync_schedule, "SCAN_SLICE_SECONDS", 0)
    await asyncio.to_thread(tasks.sync_due.run)
    assert users(sql) == 350
    assert sql("SELECT complete, resumed FROM sync_runs") == [{"complete": True, "resumed": 3}]


async def test_connections_are_read_during_a_scan_of_hours(
    tenant: Emulation, runtime: Runtime, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ten minutes as ever: whoever the scan finds is renewed with what a connection's options say."""
    monkeypatch.setattr(sync_schedule, "SCAN_SLICE_SECONDS", 0)
    assert await sync_schedule.sync_if_due(runtime, "default")
    tenant.add_connection("later", "bitbucket", "bitbucket")
    assert await sync_schedule.sync_if_due(runtime, "default")
    assert sql("SELECT 1 FROM connections WHERE name = 'later'") == []
    pass_time(sql, 601)
    assert await sync_schedule.sync_if_due(runtime, "default")
    assert len(sql("SELECT 1 FROM connections WHERE name = 'later'")) == 1


async def test_many_tenants_leave_each_other_connections(
    tenant: Emulation, settings: Callable[[], Settings], sql: Sql
) -> None:
    """More tenants than the pool has connections: their locks hold some, and all of them get on."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 3)
    one = settings()
    tenants = {f"tenant-{number}": one.tenants["default"] for number in range(25)}
    async with open_runtime(one.model_copy(update={"tenants": tenants}), connections=20) as runtime:
        await asyncio.gather(
            sync_schedule.for_each_tenant(runtime, sync_schedule.sync_if_due),
            sync_schedule.for_each_tenant(runtime, sync_schedule.sync_changes),
        )
    runs = sql("SELECT scope, count(*) AS n FROM sync_runs WHERE complete GROUP BY scope")
    assert {run["scope"]: run["n"] for run in runs} == {"all": 25, "changes": 25}


@pytest.mark.usefixtures("process")
async def test_one_tenants_failure_does_not_stop_an_app_from_syncing_another(
    tenant: Emulation, runtime: Runtime, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refused one is named in what ``worker.sync_all`` returns, and the other is synced."""
    configured = runtime.settings.tenants["default"]
    refused = configured.model_copy(update={"client_secret": Secret("another")})
    tenants = {"refused": refused, "default": configured}
    monkeypatch.setattr(runtime, "settings", runtime.settings.model_copy(update={"tenants": tenants}))
    first, second = await asyncio.to_thread(tasks.sync_all.run)
    assert (first["tenant"], first["state"], second["seen"], users(sql)) == ("refused", "failed", 350, 350)
    tenant.fail_next(
        "/oauth/token", 10_000, "503"
    )  # that may pass: what is retried is the whole, once each is tried
    (await runtime.auth0("refused"))._calls._retrier._sleep = lambda _: asyncio.sleep(0)
    sql("DELETE FROM grants")
    with pytest.raises(Retry):
        await asyncio.to_thread(tasks.sync_all.run, full=True)
    assert users(sql) == 350
