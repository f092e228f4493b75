"""Users whom hooks name: synced soon, once, and none of them lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from emulators.client import Emulation
from tests.support.backends import listens
from tests.support.keys import ACCESS_KEY
from tests.support.readers import Sql
from tests.support.wait import until_async
from token_vault import AsyncTokenVault
from token_vault.errors import TemporarilyUnavailable, TokenNotFound
from token_vault.secret import Secret
from worker.auth0.errors import Auth0RateLimited
from worker.runtime import Runtime
from worker.sync.changed_users import MAX_BATCH_USERS, ChangedUsers, SyncUsers
from worker.vault import wakeups
from worker.vault.changed_users import queue
from worker.vault.vault import Vault

CONNECTION, TENANT = "google-oauth2", "default"
OpenWorker = Callable[[], Awaitable[Runtime]]


@asynccontextmanager
async def working(vault: Vault, sync: SyncUsers, *tenants: str) -> AsyncIterator[None]:
    """Sync changed users meanwhile."""
    loop = ChangedUsers(vault, sync, tenants or (TENANT,))
    running = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        loop.stop()
        await running


def age(sql: Sql, seconds: float) -> None:
    """Let everything be so much older."""
    sql(
        "UPDATE changed_users SET reported_at = reported_at - %s, due_at = due_at - %s,"
        " claimed_until = claimed_until - %s, synced_at = synced_at - %s",
        *[timedelta(seconds=seconds)] * 4,
    )


async def test_a_named_user_is_synced_at_once(
    tenant: Emulation, open_worker: OpenWorker, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user and a connection that the vault does not know are stored by a wakeup, without any scan."""
    monkeypatch.setattr(wakeups, "SWEEP_SECONDS", 3600)
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    [user_id] = tenant.add_users(CONNECTION, 1)
    runtime = await open_worker()
    async with working(runtime.vault, runtime.sync_users):
        await until_async(lambda: listens(sql, queue.CHANNEL))
        await queue.record(runtime.vault, TENANT, [user_id])
        await until_async(lambda: sql("SELECT 1 FROM changed_users WHERE synced_at IS NOT NULL"))
    assert [row["user_id"] for row in sql("SELECT user_id FROM grants")] == [user_id]
    assert [row["name"] for row in sql("SELECT name FROM connections")] == [CONNECTION]
    assert sorted(tenant.calls("/api/v2")) == ["GET /api/v2/connections", "GET /api/v2/users/{id}"]


async def test_unknown_connections_are_listed_once_in_a_while(
    tenant: Emulation, open_worker: OpenWorker
) -> None:
    """Users of connections that Auth0 does not list would else cost one more listing each."""
    users = []
    for name in ("first", "second"):
        tenant.add_connection(name, CONNECTION, "google")
        users += tenant.add_users(name, 1, prefix=name)
        tenant.delete_connection(name)
    runtime = await open_worker()
    for user_id in users:
        await runtime.sync_users(TENANT, [user_id], True)
    assert tenant.calls("/api/v2/connections") == {"GET /api/v2/connections": 1}


async def test_changed_connections_are_synced(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> None:
    """What the operator has put right at Auth0 is known before the next tick."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    runtime = await open_worker()
    await queue.record(runtime.vault, TENANT, [queue.CONNECTIONS])
    async with working(runtime.vault, runtime.sync_users):
        await until_async(lambda: sql("SELECT 1 FROM changed_users WHERE synced_at IS NOT NULL"))
    assert [row["name"] for row in sql("SELECT name FROM connections")] == [CONNECTION]


async def test_a_word_erases_nobody(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> None:
    """Only who is not found at Auth0 is marked as missing, and erased once that has settled."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    deleted, kept, *_ = tenant.add_users(CONNECTION, 5)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync(TENANT)).sync_all()).ok
    tenant.delete_user(deleted)
    await runtime.sync_users(TENANT, [deleted, kept], True)
    missing = {row["user_id"]: row["missing_since"] for row in sql("SELECT * FROM grants")}
    assert missing[deleted] is not None
    assert missing[kept] is None
    sql("UPDATE grants SET missing_since = missing_since - interval '6 min'")
    tenant.delete_user(kept)
    await runtime.sync_users(TENANT, [kept], True)  # what has settled by now goes with the next one
    assert [row["user_id"] for row in sql("SELECT * FROM grants WHERE missing_since IS NOT NULL")] == [kept]
    assert len(sql("SELECT * FROM grants WHERE state = 'erased'")) == 1


async def test_a_deleted_user_is_served_no_more(
    tenant: Emulation, open_worker: OpenWorker, sql: Sql, database_url: Secret
) -> None:
    """At once, while the tokens wait for an erasure that is confirmed; who signs in again is served again."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    deleted, kept, *_ = tenant.add_users(CONNECTION, 5)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync(TENANT)).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due([TENANT])
    async with AsyncTokenVault(database_url, [ACCESS_KEY]) as reader:
        assert (await reader.user_token(deleted, connection=CONNECTION)).value
        tenant.delete_user(deleted)
        await runtime.sync_users(TENANT, [deleted, kept], True)
        with pytest.raises(TokenNotFound):
            await reader.user_token(deleted, connection=CONNECTION)
        assert (await reader.user_token(kept, connection=CONNECTION)).value
        assert sql("SELECT 1 FROM grants WHERE state = 'erased'") == []
        tenant.add_user(deleted, [{"connection": CONNECTION}])
        await runtime.sync_users(TENANT, [deleted], True)
        assert (await reader.user_token(deleted, connection=CONNECTION)).value


async def test_a_linked_user_s_tokens_go_to_the_other(
    tenant: Emulation, open_worker: OpenWorker, sql: Sql, database_url: Secret
) -> None:
    """Its deletion is one half of a link: the tokens that were renewed here are the other user's, however late."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    primary, secondary, *_ = tenant.add_users(CONNECTION, 5)
    account = secondary.partition("|")[2]
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync(TENANT)).sync_all()).ok
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due([TENANT])
    async with AsyncTokenVault(database_url, [ACCESS_KEY]) as reader:
        renewed = await reader.user_token(secondary, connection=CONNECTION)
        tenant.link(primary, secondary)
        await runtime.sync_users(TENANT, [secondary], True)
        with pytest.raises(TokenNotFound):
            await reader.user_token(secondary, connection=CONNECTION)
        await runtime.sync_users(TENANT, [primary], True)
        moved = await reader.user_token(primary, connection=CONNECTION, account=account)
    assert moved.value == renewed.value


async def test_of_a_tenant_that_lacks_everybody_nobody_is_withdrawn(
    tenant: Emulation, open_worker: OpenWorker, sql: Sql
) -> None:
    """It is rather the wrong tenant."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    users = tenant.add_users(CONNECTION, 5)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync(TENANT)).sync_all()).ok
    for user_id in users:
        tenant.delete_user(user_id)
    await runtime.sync_users(TENANT, users, True)
    assert len(sql("SELECT 1 FROM grants WHERE missing_since IS NOT NULL AND withdrawn_at IS NULL")) == 5


async def test_a_user_named_often_costs_one_call(vault: Vault, sql: Sql) -> None:
    """Many reports are one row; one that comes after the call waits out the least interval."""
    for _ in range(50):
        await queue.record(vault, TENANT, ["a|1", "a|1"])
    [user] = await queue.claim(vault, TENANT, limit=10)
    assert await queue.claim(vault, TENANT, limit=10) == []
    await queue.finish(vault, TENANT, [user])
    await queue.record(vault, TENANT, ["a|1"])
    assert await queue.claim(vault, TENANT, limit=10) == []
    age(sql, queue.LEAST_INTERVAL.total_seconds())
    assert [each.user_id for each in await queue.claim(vault, TENANT, limit=10)] == ["a|1"]


async def test_a_change_during_the_call_is_not_lost(vault: Vault, sql: Sql) -> None:
    """What Auth0 answered may be older than a report that came meanwhile: the user is synced once more."""
    await queue.record(vault, TENANT, ["a|1"])
    claimed = await queue.claim(vault, TENANT, limit=10)
    await queue.record(vault, TENANT, ["a|1"])
    await queue.finish(vault, TENANT, claimed)
    await queue.delete_over(vault)
    age(sql, queue.LEAST_INTERVAL.total_seconds())
    assert len(await queue.claim(vault, TENANT, limit=10)) == 1


async def test_who_is_synced_leaves_no_row(vault: Vault, sql: Sql) -> None:
    """The rows of synced users, and those that nobody takes, are deleted."""
    await queue.record(vault, TENANT, ["a|1"])
    await queue.finish(vault, TENANT, await queue.claim(vault, TENANT, limit=10))
    age(sql, 11)
    await queue.record(vault, "nobody's", ["a|2"])
    await queue.delete_over(vault)
    assert [row["user_id"] for row in sql("SELECT user_id FROM changed_users")] == ["a|2"]
    age(sql, 86_401)
    await queue.delete_over(vault)
    assert sql("SELECT * FROM changed_users") == []


async def test_a_dead_worker_s_users_are_another_s(vault: Vault, sql: Sql) -> None:
    """A claim that outlives its worker ends by itself."""
    await queue.record(vault, TENANT, ["a|1"])
    assert await queue.claim(vault, TENANT, limit=10)
    age(sql, queue.CLAIM_TIME.total_seconds())
    assert await queue.claim(vault, TENANT, limit=10)


async def test_more_than_the_bound_is_refused(
    vault: Vault, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may call a hook fills no disk."""
    monkeypatch.setattr(queue, "MAX_PENDING_USERS", 3)
    await queue.record(vault, TENANT, ["a|1", "a|2", "a|3"])
    with pytest.raises(TemporarilyUnavailable):
        await queue.record(vault, TENANT, ["a|4"])
    await queue.record(vault, "another", ["a|4"])


async def test_a_failure_is_tried_again_and_holds_up_no_other_tenant(vault: Vault, sql: Sql) -> None:
    """While one tenant's rate limit is spent, its users wait in the database, and others' are synced."""
    synced: list[tuple[str, int, bool]] = []

    async def sync(tenant: str, user_ids: list[str], urgent: bool) -> None:
        if tenant == "spent":
            raise Auth0RateLimited("spent", retry_after=3600)
        synced.append((tenant, len(user_ids), urgent))

    await queue.record(vault, "spent", ["a|1"])
    await queue.record(vault, TENANT, [f"a|{number}" for number in range(MAX_BATCH_USERS + 1)])
    async with working(vault, sync, "spent", TENANT):
        await until_async(lambda: len(synced) == 2)
        await until_async(lambda: sql("SELECT 1 FROM changed_users WHERE due_at > now() + interval '50 min'"))
    await queue.record(vault, "spent", ["a|1"])  # named again, but no sooner due
    assert await queue.claim(vault, "spent", limit=10) == []
    age(sql, 3600)
    assert [each.user_id for each in await queue.claim(vault, "spent", limit=10)] == ["a|1"]
    # A flood has no precedence in Auth0's rate limit; what remains of it is no flood.
    assert synced == [(TENANT, MAX_BATCH_USERS, False), (TENANT, 1, True)]
