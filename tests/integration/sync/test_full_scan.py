"""A full scan of many users, and the feeds after it: nobody is lost, nobody read without need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from emulators.client import Emulation
from tests.support.rows import Sql
from tests.support.wait import WAIT_SECONDS, until_async
from token_vault.secret import Secret
from worker.auth0 import Auth0Identity, LogPage, StreamedEvent, UserPage
from worker.auth0.errors import Auth0Refused, Auth0Unreachable
from worker.erasure import Eraser
from worker.runtime import Runtime
from worker.settings import Deletion
from worker.sync.ingest import SyncIngest
from worker.sync.tenant_sync import TenantSync
from worker.vault.status.status import load_status

LIST, LOG = "GET /api/v2/users", "GET /api/v2/logs"
SCOPES = [
    "read:users", "read:user_idp_tokens", "read:connections", "read:connections_options", "read:logs", "read:events",
]  # fmt: skip


class Bench:
    """A tenant that keeps a log, a vault, and a sync between them."""

    def __init__(self, tenant: Emulation, runtime: Runtime, sync: TenantSync, sql: Sql) -> None:
        self.tenant, self.runtime, self.sync, self.sql = tenant, runtime, sync, sql

    def users(self) -> set[str]:
        """Of whom the vault holds anything."""
        rows = self.sql("SELECT DISTINCT user_id FROM grants WHERE user_id <> '' AND state <> 'erased'")
        return {row["user_id"] for row in rows}

    def missing(self) -> set[str]:
        """Who seems gone."""
        return {
            row["user_id"] for row in self.sql("SELECT user_id FROM grants WHERE missing_since IS NOT NULL")
        }

    def newest_shown(self) -> bool:
        """Whether the vault holds exactly the users whom Auth0 has, with the tokens that Auth0 shows."""
        held = {
            (row["user_id"], row["connection"], row["provider_user_id"]): row["observed_access"]
            for row in self.sql("SELECT * FROM grants WHERE user_id <> '' AND state <> 'erased'")
        }
        return set(held) == {
            (user["user_id"], identity["connection"], str(identity["provider_user_id"]))
            for user in self.tenant.alive()
            for identity in user["identities"]
        }

    def erasure(self, **settings: Any) -> Eraser:
        runtime = self.runtime
        return Eraser(
            "default", runtime.vault, runtime.connections, self.sync._auth0, runtime.http,
            Deletion(**({"settle": 0} | settings)),
        )  # fmt: skip

    def calls(self) -> dict[str, int]:
        found = self.tenant.calls("/api/v2")
        self.tenant.reset_calls()
        return found


@pytest.fixture
async def bench(tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Sql) -> Bench:
    """A tenant of two connections, its log readable."""
    tenant.set_scopes(SCOPES)
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    runtime = await open_worker()
    return Bench(tenant, runtime, await runtime.tenant_sync("default"), sql)


@pytest.mark.parametrize("cluster", [0, 250, 1300])
async def test_a_scan_sees_all_users(bench: Bench, cluster: int) -> None:
    """More users than one query shows, and more of one millisecond than a page or even a query shows."""
    bench.tenant.set_export(seconds=0)
    bench.tenant.seed_users(2500, ["google-oauth2", "bitbucket"], cluster=cluster)
    report = await bench.sync.sync_all()
    assert report.ok, report.problems
    assert bench.newest_shown()
    assert (report.seen >= 2500, report.gone, report.failed) == (True, 0, 0)
    if not cluster:
        assert (report.seen, bench.calls()[LIST]) == (2500, 26)
    assert (await bench.sync.sync_all(full=True)).stats.new == 0


async def test_a_scan_goes_on_where_it_was_stopped(bench: Bench) -> None:
    """Whatever ends it, the next one asks for one page again at the most, and counts on."""
    bench.tenant.seed_users(1500, ["google-oauth2"])

    def fail_at_500(seen: int, total: int | None) -> None:
        assert total is None or total >= 1490
        if 500 <= seen < 600:
            bench.tenant.fail_next("/api/v2/users", 1000, "503")

    sync = bench.sync
    sync._auth0._calls._retrier._sleep = lambda _: asyncio.sleep(0)
    with pytest.raises(Auth0Unreachable):
        await sync.sync_all(progress=fail_at_500)
    assert await sync.is_in_progress()
    bench.tenant.clear_faults()
    held = len(bench.users())
    bench.calls()
    report = await sync.sync_all()
    assert (report.ok, report.seen >= 1500, len(bench.users())) == (True, True, 1500)
    assert bench.calls()[LIST] <= (1500 - held) // 99 + 2
    [run] = bench.sql("SELECT * FROM sync_runs WHERE scope = 'all'")
    assert (run["resumed"], run["complete"], run["error"]) == (1, True, None)


async def test_a_scan_in_slices(bench: Bench) -> None:
    """When its time is up it stops after a page, and says that there is more."""
    bench.tenant.seed_users(350, ["google-oauth2"])
    slices = 0
    while not (report := await bench.sync.sync_all(budget=0)).finished:
        slices += 1
        assert not report.ok
    assert (slices, len(bench.users()), report.ok) == (3, 350, True)


@pytest.mark.parametrize("unlimited", [True, False])
async def test_pages_are_asked_for_while_those_before_are_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, unlimited: bool
) -> None:
    """Three pages ahead are read where no rate limit counts them, and the cursor stays at what is stored."""
    monkeypatch.setattr(type(bench.sync._auth0), "is_unlimited", unlimited)
    storing, go_on, store = asyncio.Event(), asyncio.Event(), bench.sync._ingest.ingest_page

    async def store_later(*arguments: Any, **named: Any) -> Any:
        storing.set()
        await go_on.wait()
        return await store(*arguments, **named)

    monkeypatch.setattr(bench.sync._ingest, "ingest_page", store_later)
    bench.tenant.seed_users(350, ["google-oauth2"])
    scan = asyncio.create_task(bench.sync.sync_all())
    await storing.wait()
    if unlimited:
        await until_async(lambda: bench.tenant.calls("/api/v2/users")[LIST] > 3)
    for _ in range(20):
        await bench.runtime.vault.now()  # time for a call that should not be made
    assert bench.tenant.calls("/api/v2/users")[LIST] == 1 + 3 * unlimited
    [cursor] = bench.sql("SELECT token, page FROM sync_cursors WHERE feed = 'users'")
    assert (cursor["token"], cursor["page"]) == (None, 0)
    go_on.set()
    assert (await scan).ok
    assert (len(bench.users()), bench.calls()[LIST]) == (350, 4)


async def test_a_cursor_names_no_page_that_is_not_stored(bench: Bench) -> None:
    """A page that Postgres refuses is read again by the next sync, although the one behind it may be stored."""
    users = bench.tenant.add_users("google-oauth2", 350)
    bench.sql(f"ALTER TABLE grants ADD CONSTRAINT planted CHECK (user_id <> '{users[150]}')")
    try:
        with pytest.raises(DBAPIError, match="planted"):
            await bench.sync.sync_all()
    finally:
        bench.sql("ALTER TABLE grants DROP CONSTRAINT planted")
    assert not bench.users() & {*users[100:199]}
    report = await bench.sync.sync_all()
    assert (report.ok, len(bench.users())) == (True, 350)


async def test_an_identity_that_moves_between_two_pages_is_stored_once(
    bench: Bench, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked to a user of the next page, it is that user's: stored twice, its refresh token would be spent twice."""
    bench.tenant.add_users("google-oauth2", 150)
    asking, moved = type(bench.sync._auth0).users_by, list[Auth0Identity]()
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as connection:

        async def linked(self: Any, *arguments: Any, **named: Any) -> UserPage:
            page: UserPage = await asking(self, *arguments, **named)
            if not moved:
                moved.append(page.users[50].identities[0])
                await connection.execute("LOCK grants IN SHARE MODE")  # until the second page is there too
                return page
            last = page.users[-1]
            last = replace(last, identities=(*last.identities, *moved), updated_at=datetime.now(UTC))
            return replace(page, users=(*page.users[:-1], last))

        monkeypatch.setattr(type(bench.sync._auth0), "users_by", linked)
        scan = asyncio.create_task(bench.sync.sync_all())
        await until_async(lambda: bench.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        await until_async(lambda: bench.tenant.calls("/api/v2/users").get(LIST, 0) > 1)
        for _ in range(100):
            await bench.runtime.vault.now()  # time to compare the second page, which should wait
    assert (await scan).ok
    [grant] = bench.sql("SELECT user_id FROM grants WHERE provider_user_id = %s", moved[0].user_id)
    assert grant["user_id"].removeprefix("google-oauth2|") != moved[0].user_id


async def test_a_tenant_that_changes_during_the_scan(bench: Bench) -> None:
    """Who logs in, is made or deleted meanwhile: with the log and a sweep after it, the vault is what Auth0 is."""
    bench.tenant.seed_users(1000, ["google-oauth2", "bitbucket"], linked=0.1)
    bench.tenant.set_search_lag(2)
    bench.tenant.set_speed(5)
    bench.tenant.start_activity(logins=600, creations=300, links=60, unlinks=30, deletions=150)
    report = await bench.sync.sync_all()
    assert report.ok
    bench.tenant.stop_activity()
    bench.tenant.set_search_lag(0)
    for _ in range(4):
        await bench.sync.sync_changes()
        await bench.erasure().sweep(anyway=True)
    assert bench.newest_shown()
    assert bench.missing() == set()


async def test_a_tenant_that_does_not_search_by_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant that does not search by time is noticed, and its users are paged by number, without a loop."""
    bench.tenant.seed_users(450, ["google-oauth2"])
    asking = type(bench.sync._auth0).users_by

    async def deaf(self: Any, field: Any, since: Any = None, **more: Any) -> Any:
        return await asking(self, field, None, page=more.get("page", 0), totals=True)

    monkeypatch.setattr(type(bench.sync._auth0), "users_by", deaf)
    report = await bench.sync.sync_all()
    assert (report.ok, len(bench.users())) == (True, 450)


# Changes


async def test_the_log_names_whom_to_ingest_events(bench: Bench) -> None:
    """After a full sync a login costs one call, and a look at a quiet log one."""
    bench.tenant.seed_users(600, ["google-oauth2"])
    bench.tenant.write_log("fapi")
    await bench.sync.sync_all()
    await bench.sync.sync_changes()
    bench.calls()
    user = next(iter(bench.users()))
    bench.tenant.login(user)
    report = await bench.sync.catch_up()
    assert (report.scope, report.seen, report.stats.changed) == ("changes", 1, 1)
    found = await load_status(bench.runtime.vault, ["default"])
    [full], [changes] = found["last_sync"], found["last_changes"]
    assert (full["scope"], full["seen"], changes["seen"], changes["changed"]) == ("all", 600, 1, 1)
    assert full["finished_at"] < changes["finished_at"]
    calls = bench.calls()
    assert (calls.pop(LOG), LIST in calls, sum(calls.values())) == (1, False, 2), (
        calls
    )  # the connections, the user
    await bench.sync.sync_changes()
    assert bench.calls() == {LOG: 1}


async def test_a_log_of_many_pages_is_read_page_by_page(bench: Bench) -> None:
    """More than a hundred entries: each page commits where it ended, and each user is asked for."""
    users = bench.tenant.add_users("google-oauth2", 3)
    await bench.sync.sync_all()
    bench.tenant.add_users("google-oauth2", 250)
    await bench.sync.sync_changes()
    assert len(bench.users()) == 253
    assert users[0] in bench.users()


@pytest.mark.parametrize("gone", ["oldest", "400"])
async def test_a_log_that_does_not_reach_back(bench: Bench, gone: Any) -> None:
    """Those who changed since it was last read are found by a scan by last change, and the report says so."""
    users = bench.tenant.add_users("google-oauth2", 20)
    await bench.sync.sync_all()
    bench.tenant.set_log(retention=3600, gone=gone)
    bench.tenant.login(users[7])
    bench.sql("UPDATE sync_cursors SET read_until = read_until - interval '2 d' WHERE feed = 'log'")
    bench.tenant.advance(7200)
    bench.tenant.login(users[8])
    report = await bench.sync.sync_changes()
    assert (report.ok, report.stats.changed) == (True, 2)
    assert any("may not reach back" in note for note in report.notes)
    assert bench.sql("SELECT 1 FROM sync_cursors WHERE feed = 'updated'") == []
    assert (await bench.sync.sync_changes()).notes == []


async def test_without_the_scope_for_the_log(bench: Bench) -> None:
    """Changes are found by a scan by last change each time, no token is minted for it, and the report says what is missing."""
    bench.tenant.set_scopes(SCOPES[:4])
    bench.tenant.invalidate_management_tokens()
    users = bench.tenant.add_users("google-oauth2", 20)
    await bench.sync.sync_all()
    bench.tenant.login(users[3])
    report = await bench.sync.sync_changes()
    assert (report.ok, report.stats.changed) == (True, 1)
    assert any("read:logs" in note for note in report.notes)
    minted = bench.tenant.calls("/oauth/token")
    scheduled = bench.sql("SELECT token FROM sync_cursors WHERE feed = 'updated'")
    await bench.sync._feeds.prepare(report)  # a scan that has begun is not begun anew
    assert bench.sql("SELECT token FROM sync_cursors WHERE feed = 'updated'") == scheduled
    await bench.sync.sync_changes()
    assert bench.tenant.calls("/oauth/token") == minted


async def test_events_are_followed(bench: Bench) -> None:
    """A login shows in the vault as its event comes, duplicates and disorder do no harm, and it can be stopped."""
    bench.tenant.set_events(on_login=True, duplicates=0.5, disorder=0.5)
    users = bench.tenant.add_users("google-oauth2", 5)
    await bench.sync.sync_all()
    stop = asyncio.Event()
    following = asyncio.create_task(bench.sync.follow(stop))
    taken = "SELECT 1 FROM grants WHERE refresh_version > 1"
    async with asyncio.timeout(WAIT_SECONDS):
        while not bench.sql(taken):  # nothing tells when the connection stands
            bench.tenant.login(users[0])
            await asyncio.sleep(0.1)
        for user in users[1:]:
            bench.tenant.login(user)
        while len(bench.sql(taken)) < 5:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.05)
        assert (
            await (await bench.runtime.tenant_sync("default")).follow(asyncio.Event()) is False
        )  # in reserve
        stop.set()
        assert await following is True
    assert bench.sql("SELECT 1 FROM sync_cursors WHERE feed = 'events' AND token IS NOT NULL")


async def test_following_stops_while_it_asks_for_users(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that comes while users are asked for ends it at once, and not only when the connection ends."""
    bench.tenant.set_events(on_login=True)
    (user,) = bench.tenant.add_users("google-oauth2", 1)
    await bench.sync.sync_all()
    stop, ask_for = asyncio.Event(), bench.sync._feeds._ingest_events

    async def ask_and_stop(*arguments: Any) -> None:
        await ask_for(*arguments)
        stop.set()

    monkeypatch.setattr(bench.sync._feeds, "_ingest_events", ask_and_stop)
    following = asyncio.create_task(bench.sync.follow(stop))
    async with asyncio.timeout(WAIT_SECONDS):
        while not stop.is_set():  # nothing tells when the connection stands
            bench.tenant.login(user)
            await asyncio.sleep(0.1)
        assert await following is True


async def test_no_cursor_passes_what_is_not_stored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was named by the log, an event or a list while Auth0 was away is read by the next sync."""
    bench.tenant.seed_users(150, ["google-oauth2"])
    await bench.sync.sync_all()

    def cursors() -> list[dict[str, Any]]:
        return bench.sql("SELECT feed, token, page FROM sync_cursors ORDER BY feed")

    async def away(*_: object, **__: object) -> None:
        raise Auth0Unreachable("Auth0 is away")

    user = min(bench.users())
    bench.tenant.login(user)
    await bench.sync.sync_changes()  # the log has begun, and its cursor has a checkpoint
    events = [StreamedEvent(f"e-{number}", "user.updated", user, None) for number in range(2)]
    await bench.sync._feeds._ingest_events(events)
    before = cursors()
    tokens = {each["feed"]: each["token"] for each in before}
    assert (tokens["log"] is not None, tokens["events"]) == (True, "e-1")
    bench.tenant.login(user)
    monkeypatch.setattr(SyncIngest, "ingest_by_id", away)
    monkeypatch.setattr(SyncIngest, "ingest_page", away)
    with pytest.raises(Auth0Unreachable):
        await bench.sync.sync_changes()
    with pytest.raises(Auth0Unreachable):
        await bench.sync._feeds._ingest_events([StreamedEvent("e-2", "user.updated", user, None)])
    assert cursors() == before
    with pytest.raises(Auth0Unreachable):
        await bench.sync.sync_all(full=True)
    before.append({"feed": "users", "token": None, "page": 0})
    assert cursors() == before
    bench.sync._auth0._calls._retrier._sleep = lambda _: asyncio.sleep(0)
    bench.tenant.fail_next("/api/v2/logs", 1000, "503")
    with pytest.raises(Auth0Unreachable):  # and no scan is scheduled for it
        await bench.sync.sync_changes()
    assert cursors() == before


async def test_events_that_are_gone_are_left_to_the_log(bench: Bench) -> None:
    """An offset that is too old is dropped: following begins anew, from now."""
    bench.tenant.add_users("google-oauth2", 2)
    await bench.sync.sync_all()
    bench.tenant.set_events(retention=60)
    bench.sql("INSERT INTO sync_cursors (tenant, feed, token) VALUES ('default', 'events', 'long-ago')")
    await bench.sync.follow(asyncio.Event())
    assert bench.sql("SELECT 1 FROM sync_cursors WHERE feed = 'events'") == []


async def test_two_tenants_do_not_stop_each_other(bench: Bench) -> None:
    """Each has its own cursor in its own scan."""
    bench.tenant.seed_users(250, ["google-oauth2"])
    other = TenantSync("other", bench.runtime.vault, bench.runtime.connections, bench.sync._auth0)
    await bench.sync.sync_all(budget=0)
    assert (await other.sync_all()).seen == 250
    assert await bench.sync.is_in_progress()
    assert not await other.is_in_progress()
    assert (await bench.sync.sync_all()).stats.new == 250


async def test_a_tenant_whose_log_cannot_be_read(bench: Bench) -> None:
    """An error of the log costs no token: changes are found by a scan by last change, and the report says why."""
    users = bench.tenant.add_users("google-oauth2", 3)
    bench.tenant.fail_next("/api/v2/logs", 1000, "html200")
    report = await bench.sync.sync_all()
    assert (report.ok, len(bench.users())) == (True, 3)
    bench.tenant.login(users[0])
    assert (await bench.sync.sync_changes()).stats.changed == 1


async def test_a_login_that_lists_do_not_show_yet(bench: Bench) -> None:
    """What the log told shortly before a full sync is read again after it: the lists may have lagged behind."""
    users = bench.tenant.add_users("google-oauth2", 3)
    bench.tenant.set_list_lag(users[1])
    bench.tenant.login(users[1])
    await bench.sync.sync_all()
    assert (await bench.sync.sync_changes()).stats.changed == 1


async def test_a_user_whom_auth0_will_not_show_stands_in_nobodys_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names an id that Auth0 calls none: it is noted once, and the log is read on."""
    users = bench.tenant.add_users("google-oauth2", 3)
    await bench.sync.sync_all()
    bench.tenant.write_log("s", user_id="odd")
    bench.tenant.fail_next("/api/v2/users/odd", 1000, "400")
    bench.tenant.login(users[0])
    report = await bench.sync.sync_changes()
    assert (report.stats.changed, report.failed) == (1, 1)
    assert (await bench.sync.sync_changes()).seen == 0
    asking = type(bench.sync._auth0).logs

    async def garbled(*arguments: Any, **named: Any) -> LogPage:
        return replace(await asking(*arguments, **named), malformed=("an entry",))

    monkeypatch.setattr(type(bench.sync._auth0), "logs", garbled)
    report = await bench.sync.sync_changes()
    assert (report.ok, report.failed, report.problems) == (False, 1, ["an entry"])


async def test_a_page_that_fails_is_asked_for_no_further(bench: Bench) -> None:
    """When asking by id fails, calls of the same page that nobody waits for any more are not made."""
    users = bench.tenant.add_users("google-oauth2", 60)
    await bench.sync.sync_all()
    await bench.sync.sync_changes()
    for user in users:
        bench.tenant.login(user)
    bench.tenant.fail_next(f"/api/v2/users/{users[0]}", 1, "403")
    with pytest.raises(Auth0Refused):
        await bench.sync.sync_changes()
    bench.calls()
    for _ in range(20):
        await bench.runtime.vault.now()  # time for calls that were left to themselves
    assert bench.calls().get("GET /api/v2/users/{id}", 0) <= 4


async def test_a_backlog_of_the_log_is_not_read_until_now(bench: Bench) -> None:
    """A log read in part counts as read up to its last page's entries: if the rest is lost, the gap begins there."""
    bench.tenant.advance(-86400)
    users = bench.tenant.add_users("google-oauth2", 3)
    await bench.sync.sync_all()
    await bench.sync.sync_changes()
    for _ in range(150):
        bench.tenant.write_log("fapi")
    bench.tenant.login(users[0])
    bench.tenant.advance(20 * 3600)
    assert not (await bench.sync.sync_changes(budget=0)).finished
    behind = "SELECT 1 FROM sync_cursors WHERE feed = 'log' AND read_until < now() - interval '20 h'"
    assert len(bench.sql(behind)) == 1
    bench.tenant.set_log(retention=3600, gone="400")
    assert (await bench.sync.sync_changes()).stats.changed == 1
    assert bench.sql(behind) == []


@pytest.mark.parametrize("problem", ["an error", "no scope", "no scope any more"])
async def test_a_log_that_cannot_be_read_any_more(bench: Bench, problem: str) -> None:
    """Those who changed since it was read are scanned, and deletions swept all the same."""
    bench.tenant.advance(-7200)
    users = bench.tenant.add_users("google-oauth2", 3)
    await bench.sync.sync_all()
    await bench.sync.sync_changes()
    # The login is a little older, as the search may not have shown it then.
    bench.sql("UPDATE sync_cursors SET read_until = now() - interval '85 min' WHERE feed = 'log'")
    bench.tenant.advance(1800)
    bench.tenant.login(users[0])
    bench.tenant.advance(5400)
    if problem == "an error":
        bench.tenant.fail_next("/api/v2/logs", 1000, "html200")
    else:
        bench.tenant.set_scopes(SCOPES[:4])
        bench.tenant.invalidate_management_tokens()
    if problem == "no scope":  # known before the log is asked for
        forget_token(bench)
    report = await bench.sync.sync_changes()
    assert (report.ok, report.stats.changed, len(report.notes)) == (True, 1, 1)
    bench.tenant.clear_faults()
    bench.tenant.set_scopes(SCOPES)
    forget_token(bench)
    report = await bench.sync.sync_changes()
    # Without the scope the log's cursor is dropped.
    assert (report.notes, report.seen > 0) == ([], problem != "no scope")


def forget_token(bench: Bench) -> None:
    """Have the next call mint a token with the scopes of now."""
    bench.sync._auth0._api._token.forget()
    bench.sql("DELETE FROM management_tokens")


async def test_a_database_users_login_costs_no_call(bench: Bench) -> None:
    """It brings no provider's tokens; of a deletion such a user is told of like any."""
    bench.tenant.add_connection("db", "auth0", None)
    bench.tenant.add_user("auth0|a", [{"connection": "db", "provider": "auth0", "user_id": "a"}])
    users = bench.tenant.add_users("google-oauth2", 2)
    await bench.sync.sync_all()
    await bench.sync.sync_changes()
    bench.calls()
    bench.tenant.login("auth0|a", "db")
    bench.tenant.login(users[0])
    await bench.sync.sync_changes()
    assert bench.calls()["GET /api/v2/users/{id}"] == 1
    bench.tenant.delete_user("auth0|a")
    await bench.sync.sync_changes()
    assert bench.calls()["GET /api/v2/users/{id}"] == 1


async def test_users_without_tokens_where_lists_show_none(bench: Bench) -> None:
    """The first scan asks for all users by id; later ones for those who changed, and `--full` for all again."""
    by_id = "GET /api/v2/users/{id}"
    bench.tenant.set_list_tokens(False)
    bench.tenant.add_users("google-oauth2", 5)
    bare = bench.tenant.add_users("google-oauth2", 5, prefix="bare", at=1.7e9)
    for user in bare:
        bench.tenant.set_identity(user, "google-oauth2", touch=False, access_token=None, refresh_token=None)
    await bench.sync.sync_all()
    assert bench.calls()[by_id] == 10
    await bench.sync.sync_all()
    assert bench.calls().get(by_id, 0) == 0
    bench.tenant.login(bare[0])
    await bench.sync.sync_all()
    assert (bench.calls()[by_id], bare[0] in bench.users()) == (1, True)
    await bench.sync.sync_all(full=True)
    assert bench.calls()[by_id] == 10


async def test_users_without_tokens_on_a_page_of_their_own(bench: Bench) -> None:
    """Where a page before showed tokens, lists show them: those who have none are not asked for by id."""
    bench.tenant.add_users("google-oauth2", 100)
    for user in bench.tenant.add_users("google-oauth2", 20, prefix="bare", at=1.9e9):
        bench.tenant.set_identity(user, "google-oauth2", touch=False, access_token=None, refresh_token=None)
    await bench.sync.sync_all()
    calls = bench.calls()
    # Whom the oldest entry of the log names is read by id.
    assert (calls[LIST], calls.get("GET /api/v2/users/{id}", 0) <= 1) == (2, True)


async def test_a_scan_of_a_connection_that_was_left_long_ago(bench: Bench) -> None:
    """It begins again: users who changed behind it may have gone unnoticed."""
    bench.tenant.seed_users(300, ["google-oauth2"])
    await bench.sync.sync_all()

    def killed(seen: int, _: int | None) -> None:
        if seen > 100:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await bench.sync.sync_connection("google-oauth2", progress=killed)
    bench.tenant.login(bench.sql("SELECT * FROM grants ORDER BY user_created_at")[0]["user_id"])
    bench.sql("UPDATE sync_runs SET started_at = started_at - interval '2 d' WHERE scope = 'connection'")
    report = await bench.sync.sync_connection("google-oauth2")
    assert (report.ok, report.seen, report.stats.changed) == (True, 300, 1)
