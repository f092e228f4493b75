"""The daily reconciliation of a large tenant by an export of its users."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text

from emulators.client import Emulation
from tests.integration.sync.test_full_scan import LIST, SCOPES, Bench
from tests.support.rows import Sql
from worker.auth0.errors import Auth0RateLimited, Auth0Unreachable
from worker.runtime import Runtime
from worker.sync import export_reconciliation
from worker.vault.sync_state import export_diff

JOB, LOOK, BY_ID = "POST /api/v2/jobs/users-exports", "GET /api/v2/jobs/{id}", "GET /api/v2/users/{id}"


@pytest.fixture
async def bench(
    tenant: Emulation,
    open_worker: Callable[[], Awaitable[Runtime]],
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """A tenant of 500 users that counts as large and has been scanned, a day ago by the vault's clock."""
    monkeypatch.setattr(export_reconciliation, "MIN_USERS_FOR_EXPORT", 100)
    tenant.set_scopes(SCOPES)
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.set_export(seconds=0)
    tenant.seed_users(500, ["google-oauth2"])
    runtime = await open_worker()
    bench = Bench(tenant, runtime, await runtime.tenant_sync("default"), sql)
    await bench.sync.sync_all()
    sql("UPDATE sync_runs SET started_at = started_at - interval '1 day'")
    bench.calls()
    return bench


def ids(bench: Bench) -> list[str]:
    return sorted(user["user_id"] for user in bench.tenant.alive())


def leave_alone_for_a_day(bench: Bench) -> None:
    """Nothing is concluded of grants as new as the ones that the scan has just made."""
    bench.sql("UPDATE grants SET created_at = created_at - interval '1 day'")


async def test_nothing_has_changed(bench: Bench) -> None:
    """It costs the job and a look or two, instead of a page for each hundred users."""
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen, report.gone, report.notes) == (True, 500, 0, [])
    calls = bench.calls()
    assert (calls[JOB], calls.get(LIST, 0), calls.get(BY_ID, 0)) == (1, 0, 0)
    assert calls[LOOK] <= 2
    assert not await bench.sync.is_in_progress()
    runs = bench.sql("SELECT * FROM sync_runs WHERE scope = 'all' ORDER BY id")
    assert [(run["complete"], run["seen"]) for run in runs] == [(True, 500), (True, 500)]


async def test_what_the_feeds_have_missed_is_asked_for(bench: Bench) -> None:
    """Who logged in, came, or went without the vault's knowing: asked for by id, or marked for the sweep."""
    leave_alone_for_a_day(bench)
    user_ids = ids(bench)
    for user_id in user_ids[:2]:
        bench.tenant.login(user_id, "google-oauth2")
    for user_id in user_ids[2:4]:
        bench.tenant.delete_user(user_id)
    bench.tenant.add_user("google-oauth2|new", [{"connection": "google-oauth2", "user_id": "new"}])
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen, report.gone) == (True, 499, 2)
    calls = bench.calls()
    assert (calls.get(LIST, 0), calls[BY_ID]) == (0, 3)
    assert bench.missing() == set(user_ids[2:4])
    await bench.erasure().sweep()
    assert bench.newest_shown()


async def test_whom_the_export_may_not_show_yet_is_left_alone(bench: Bench) -> None:
    """A user of these minutes who is not in the export is not called missing."""
    bench.tenant.delete_user(ids(bench)[0])
    assert (await bench.sync.sync_all()).gone == 0


async def test_users_without_tokens_are_not_asked_for_again(bench: Bench) -> None:
    """Only who changed since all users were last seen: the vault has no row that would tell."""
    bench.tenant.add_connection("db", "auth0", None)
    bench.tenant.add_user(
        "auth0|old", [{"connection": "db", "provider": "auth0", "user_id": "old"}], at=1.6e9
    )
    bench.tenant.add_user("auth0|new", [{"connection": "db", "provider": "auth0", "user_id": "new"}])
    # So shortly before that, the search may not have shown the change.
    bench.tenant.add_user(
        "auth0|then", [{"connection": "db", "provider": "auth0", "user_id": "then"}],
        at=bench.tenant.now() - 86400 - 300,
    )  # fmt: skip
    await bench.sync.sync_all()
    assert bench.calls()[BY_ID] == 2


async def test_a_scan_where_it_takes_no_more_calls(bench: Bench) -> None:
    """When more users changed than a scan has pages, the scan is made, and nothing is left behind."""
    for user_id in ids(bench)[:6]:
        bench.tenant.login(user_id, "google-oauth2")
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen) == (True, 500)
    calls = bench.calls()
    assert (calls[LIST], calls.get(BY_ID, 0)) == (6, 0)
    assert bench.newest_shown()
    assert bench.sql("SELECT * FROM users_to_sync") == []
    assert not await bench.sync.is_in_progress()


@pytest.mark.parametrize("problem", ["failed", "out of reach", "not believed"])
async def test_a_scan_where_there_is_no_good_export(bench: Bench, problem: str) -> None:
    """A job that fails, a file that cannot be downloaded, one that names hardly any user: a scan, and a note of why."""
    if problem == "failed":
        bench.tenant.set_export(seconds=0, fails=True)
    elif problem == "out of reach":
        bench.tenant.fail_next("/exports", 1000, "503")
    else:
        bench.sql("UPDATE sync_runs SET seen = 5000")
    leave_alone_for_a_day(bench)
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen, report.gone, bench.missing()) == (True, 500, 0, set())
    [note] = report.notes
    assert note.endswith("all users are gone through instead")
    assert bench.calls()[LIST] == 6


async def test_a_role_that_may_not_make_temporary_tables(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and a scan is made instead."""
    monkeypatch.setattr(export_diff, "_CREATE_EXPORTED", text("SELECT not_allowed()"))
    report = await bench.sync.sync_all()
    assert (report.ok, report.seen) == (True, 500)
    assert "GRANT TEMPORARY" in report.notes[0]


async def test_it_is_gone_on_with(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into slices: one job is waited for and read once, and nobody is asked for twice."""
    monkeypatch.setattr(export_reconciliation, "USERS_PER_COMMIT", 2)
    bench.tenant.set_export(seconds=600)
    for user_id in ids(bench)[:5]:
        bench.tenant.login(user_id, "google-oauth2")
    slices = 0
    while not (report := await bench.sync.sync_all(budget=0)).finished:
        assert await bench.sync.is_in_progress()
        slices += 1
        if slices == 2:
            bench.tenant.advance(600)
    assert slices > 3
    assert (report.ok, report.seen) == (True, 500)
    calls = bench.calls()
    assert (calls[JOB], calls.get(LIST, 0), calls[BY_ID]) == (1, 0, 5)
    assert bench.newest_shown()


async def test_a_kill_between_asking_and_noting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is kept, and only those are asked for again whose answers were not committed as asked."""
    monkeypatch.setattr(export_reconciliation, "USERS_PER_COMMIT", 2)
    for user_id in ids(bench)[:5]:
        bench.tenant.login(user_id, "google-oauth2")
    asked = export_diff.delete_users_to_sync

    async def killed(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(export_diff, "delete_users_to_sync", killed)
    with pytest.raises(asyncio.CancelledError):
        await bench.sync.sync_all()
    monkeypatch.setattr(export_diff, "delete_users_to_sync", asked)
    report = await bench.sync.sync_all()
    calls = bench.calls()
    assert (report.ok, report.seen, calls[JOB], calls[BY_ID]) == (True, 500, 1, 7)
    assert bench.newest_shown()


async def test_a_job_that_auth0_has_forgotten(bench: Bench) -> None:
    """A day later the job is gone: all users are scanned instead."""
    bench.tenant.set_export(seconds=60)
    assert not (await bench.sync.sync_all(budget=0)).finished
    bench.tenant.advance(2 * 86400)
    report = await bench.sync.sync_all(budget=60)
    assert (report.ok, report.seen, bench.calls()[LIST]) == (True, 500, 6)


async def test_a_job_that_was_done_while_nobody_looked(bench: Bench) -> None:
    """A worker that was away for hours reads it, instead of scanning all users."""
    bench.tenant.set_export(seconds=0.5)
    assert not (await bench.sync.sync_all(budget=0)).finished
    bench.sql("UPDATE sync_runs SET started_at = started_at - interval '3 h' WHERE NOT complete")
    report = await bench.sync.sync_all(budget=60)
    assert (report.ok, report.notes, bench.calls().get(LIST, 0)) == (True, [], 0)


async def test_a_job_that_is_never_done(bench: Bench) -> None:
    """After its longest time all users are scanned instead."""
    bench.tenant.set_export(seconds=10**6)
    assert not (await bench.sync.sync_all(budget=0)).finished
    bench.sql("UPDATE sync_runs SET started_at = started_at - interval '3 h' WHERE NOT complete")
    report = await bench.sync.sync_all(budget=0)
    assert "not done after 120 minutes" in report.notes[0]
    assert bench.calls()[LIST] == 1


async def test_a_spent_rate_limit_is_no_reason_for_a_scan(bench: Bench) -> None:
    """Which would take more calls; the next sync makes the export."""
    bench.tenant.fail_next("/api/v2/jobs", 1, "429", retry_after=3600)
    with pytest.raises(Auth0RateLimited):
        await bench.sync.sync_all()
    assert (bench.calls().get(LIST, 0), await bench.sync.is_in_progress()) == (0, False)


async def test_full_gives_up_what_was_begun(bench: Bench) -> None:
    """Whoever asks for a full sync gets a scan, and no export goes on after it."""
    bench.tenant.set_export(seconds=60)
    assert not (await bench.sync.sync_all(budget=0)).finished
    report = await bench.sync.sync_all(full=True)
    assert (report.ok, await bench.sync.is_in_progress()) == (True, False)


async def test_an_outage_before_there_is_a_job(bench: Bench) -> None:
    """An outage of Auth0's before the job began leaves nothing under way that would hinder the next."""
    bench.sync._auth0._calls._retrier._sleep = lambda _: asyncio.sleep(0)
    bench.tenant.fail_next("/api/v2", 1000, "503")
    with pytest.raises(Auth0Unreachable):
        await bench.sync.sync_all()
    bench.tenant.clear_faults()
    assert (await bench.sync.sync_all()).ok


async def test_a_kill_before_it_is_left_to_a_scan(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who differ are counted anew: a scan is made, and nobody of them asked for by id."""
    for user_id in ids(bench)[:30]:
        bench.tenant.login(user_id, "google-oauth2")
    leave = export_reconciliation.ExportReconciler._leave_to_scan

    async def killed(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(export_reconciliation.ExportReconciler, "_leave_to_scan", killed)
    with pytest.raises(asyncio.CancelledError):
        await bench.sync.sync_all()
    monkeypatch.setattr(export_reconciliation.ExportReconciler, "_leave_to_scan", leave)
    assert (await bench.sync.sync_all()).ok
    calls = bench.calls()
    assert (calls.get(BY_ID, 0), calls[LIST]) == (0, 6)


async def test_an_identity_that_shows_no_token_any_more_is_asked_for_once(bench: Bench) -> None:
    """Its user changed: that is seen once, and the user not read again each day; what is stored is kept."""
    user = ids(bench)[0]
    bench.tenant.set_identity(user, "google-oauth2", access_token=None, refresh_token=None, expires_in=None)
    await bench.sync.sync_all()
    assert bench.calls()[BY_ID] == 1
    await bench.sync.sync_all()
    assert bench.calls().get(BY_ID, 0) == 0
    [row] = bench.sql("SELECT * FROM grants WHERE user_id = %s", user)
    assert row["refresh_ciphertext"]
    bench.tenant.login(user)
    await bench.sync.sync_all()
    assert bench.newest_shown()


async def test_who_seemed_gone_and_is_in_the_export(bench: Bench) -> None:
    """Asked for by id, which takes the mark off: it would hold back every sweep after it."""
    user = ids(bench)[0]
    bench.sql("UPDATE grants SET missing_since = now() - interval '1 h' WHERE user_id = %s", user)
    await bench.sync.sync_all()
    assert (bench.calls()[BY_ID], bench.missing()) == (1, set())
