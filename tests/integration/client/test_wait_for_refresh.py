"""Waiting for a refresh: asked for once, however many wait; woken by its end, never by polling; never for longer."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from emulators.client import Emulation
from tests.support.reader_roles import reader_roles
from tests.support.readers import (
    CROWDS,
    KINDS,
    OpenReader,
    Rows,
    Sql,
    on_demand_worker,
    opening,
    pending,
    requested,
)
from tests.support.wait import WAIT_SECONDS, until_async
from token_vault import AsyncTokenVault, Token
from token_vault.errors import ReauthorizationRequired, TemporarilyUnavailable, TokenExpired
from token_vault.pool import AsyncPool, Pool
from token_vault.read_model import CHANNEL, REQUEST_REFRESH, SELECT_STATUS
from token_vault.read_records import RECORD_READS
from token_vault.secret import Secret
from worker.runtime import Runtime

USER, CONNECTION = "oauth2|u1", "custom"
OpenWorker = Callable[[], Awaitable[Runtime]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Threads and asyncio in turn."""
    return str(request.param)


@pytest.fixture
async def open_reader(kind: str, database_url: Secret) -> AsyncIterator[OpenReader]:
    """Open readers of this kind."""
    async with opening(kind, database_url) as make:
        yield make


@pytest.fixture
def selects(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what readers ask of the database."""
    counts: Counter[str] = Counter()
    for pool in (Pool, AsyncPool):
        rows_of = pool.rows

        def counting(self: Any, *arguments: Any, rows_of: Any = rows_of) -> Any:
            counts["all"] += arguments[0] != RECORD_READS  # written in the background, whenever it is time
            return rows_of(self, *arguments)

        monkeypatch.setattr(pool, "rows", counting)
    return counts


@pytest.fixture
async def user(tenant: Emulation, open_worker: OpenWorker, sql: Sql) -> tuple[str, Runtime]:
    """A synced user of a real (emulated) provider whose token is about to end, and what renews it."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    (user_id,) = tenant.add_users(CONNECTION, 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    stale_in(sql, 3)
    return user_id, runtime


def stale_in(sql: Sql, seconds: float) -> None:
    sql(
        "UPDATE grants SET expires_at = now() + %s * interval '1 s', obtained_at = now() - interval '1 h'",
        seconds,
    )


async def test_a_crowd_waits_for_one_refresh(
    kind: str,
    tenant: Emulation,
    user: tuple[str, Runtime],
    sql: Sql,
    open_reader: OpenReader,
    selects: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many wait for a token: one message, one call at the provider, few reads, and all get the new token."""
    monkeypatch.setattr("token_vault.read_flow.POLL_SECONDS", WAIT_SECONDS)  # reads do not grow with time
    user_id, runtime = user
    tenant.fail_next("/idp/custom", 1, "delay:0.4")
    tenant.reset_calls()
    reader, crowd = open_reader(), CROWDS[kind]
    async with on_demand_worker(runtime) as results:
        tokens = await asyncio.gather(
            *(reader.user_token(user_id, CONNECTION, wait=10 * WAIT_SECONDS) for _ in range(crowd))
        )
    assert {token.value for token in tokens} == {tenant.live(user_id, CONNECTION)["access_token"]}
    assert tenant.calls("/idp") == {"POST /idp/custom/oauth/token": 1}
    assert len(results) + len(pending(sql)) == 1
    assert selects["all"] <= 5 * crowd


async def test_several_readers_wait_for_one_refresh(
    tenant: Emulation, user: tuple[str, Runtime], sql: Sql, open_reader: OpenReader
) -> None:
    """Readers in several processes share one refresh too: what they share is Redis and Postgres."""
    user_id, runtime = user
    tenant.fail_next("/idp/custom", 1, "delay:0.3")
    tenant.reset_calls()
    readers = [open_reader() for _ in range(5)]
    async with on_demand_worker(runtime) as results:
        tokens = await asyncio.gather(
            *(
                reader.user_token(user_id, CONNECTION, wait=10 * WAIT_SECONDS)
                for reader in readers
                for _ in range(3)
            )
        )
    assert len({token.value for token in tokens}) == 1
    assert sum(tenant.calls("/idp").values()) == 1
    assert len(results) + len(pending(sql)) == 1


async def test_waiting_is_no_polling(rows: Rows, open_reader: OpenReader, selects: Counter[str]) -> None:
    """Where no refresh comes, a wait ends when its time is up, with few reads, and leaves one message."""
    await rows.add(expires_in=-1)
    began = time.monotonic()
    with pytest.raises(TemporarilyUnavailable, match="in time") as told:
        await open_reader().user_token(USER, CONNECTION, wait=1.2)
    assert time.monotonic() - began >= 1.2
    assert told.value.retry_after > 0
    assert selects["all"] <= 6
    assert len(pending(rows.sql)) == 1


async def test_no_wait_asks_all_the_same(rows: Rows, open_reader: OpenReader) -> None:
    """``wait=0`` queues the refresh and returns at once; the same reader later gets what it brought."""
    grant_id = await rows.add(expires_in=-1)
    reader = open_reader()
    with pytest.raises(TemporarilyUnavailable):
        await reader.user_token(USER, CONNECTION, wait=0)
    assert len(pending(rows.sql)) == 1
    rows.age(grant_id, 3600)
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"


async def test_a_refresh_that_ends_before_listening_began(
    monkeypatch: pytest.MonkeyPatch, rows: Rows, open_reader: OpenReader
) -> None:
    """A refresh that ends between a reader's first look and its listening is not slept through."""
    grant_id = await rows.add(expires_in=-1)
    reader = open_reader()
    pool = AsyncPool if isinstance(reader.vault, AsyncTokenVault) else Pool
    rows_of = pool.rows

    def refreshed_after_a_look(self: Any, statement: str, values: Any) -> Any:
        if statement == REQUEST_REFRESH:
            raise AssertionError("it slept through the refresh")
        found = rows_of(self, statement, values)
        if statement == SELECT_STATUS:
            rows.age(grant_id, 3600)
            rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
        return found

    monkeypatch.setattr(pool, "rows", refreshed_after_a_look)
    began = time.monotonic()
    assert (await reader.user_token(USER, CONNECTION, wait=10 * WAIT_SECONDS)).value == "token-of-u1"
    assert time.monotonic() - began < WAIT_SECONDS


async def test_a_grant_that_dies_while_readers_wait(
    tenant: Emulation, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """When the provider refuses the grant, all who wait are told at once that the user must consent again."""
    user_id, runtime = user
    tenant.revoke(user_id, CONNECTION)
    reader = open_reader()
    began = time.monotonic()
    async with on_demand_worker(runtime):
        ends = await asyncio.gather(
            *(reader.user_token(user_id, CONNECTION, wait=10 * WAIT_SECONDS) for _ in range(5)),
            return_exceptions=True,
        )
    assert [type(end) for end in ends] == [ReauthorizationRequired] * 5
    assert {end.reason for end in ends if isinstance(end, ReauthorizationRequired)} == {"invalid_grant"}
    assert time.monotonic() - began < WAIT_SECONDS


async def test_a_provider_that_is_down(
    tenant: Emulation, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """When the provider cannot renew now, those who wait are told so at once, with the time of the next attempt."""
    user_id, runtime = user
    tenant.fail_next("/idp/custom", 10, "429", retry_after=30)
    began = time.monotonic()
    async with on_demand_worker(runtime):
        with pytest.raises(TemporarilyUnavailable) as told:
            await open_reader().user_token(user_id, CONNECTION, wait=10 * WAIT_SECONDS)
    assert time.monotonic() - began < WAIT_SECONDS
    assert 20 < told.value.retry_after <= 60


async def test_more_life_than_tokens_have(
    tenant: Emulation, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """Who asks for more life than the provider's tokens have is told both numbers, after one refresh in all."""
    user_id, runtime = user
    tenant.reset_calls()
    reader = open_reader()
    async with on_demand_worker(runtime):
        for _ in range(3):
            with pytest.raises(TokenExpired, match=r"3600 s.*7200 s"):
                await reader.user_token(user_id, CONNECTION, min_ttl=7200, wait=WAIT_SECONDS)
    assert sum(tenant.calls("/idp").values()) == 1


async def test_a_token_that_is_stale_again(
    sql: Sql, tenant: Emulation, user: tuple[str, Runtime], open_reader: OpenReader
) -> None:
    """The mark that saves messages speaks of one token: the next one, stale already, is asked for at once."""
    user_id, runtime = user
    reader = open_reader()
    tokens: list[Token] = []
    async with on_demand_worker(runtime) as results:
        for _ in range(3):
            stale_in(sql, 3)
            tokens.append(await reader.user_token(user_id, CONNECTION, wait=WAIT_SECONDS))
    assert len({token.value for token in tokens}) == len(results) == 3


async def test_a_lost_listener(rows: Rows, open_reader: OpenReader, selects: Counter[str]) -> None:
    """Where the listening connection is lost, the row is read at the end of the wait, and the next wait listens anew."""
    grant_id = await rows.add(expires_in=-1)
    reader = open_reader()
    for _ in range(2):
        rows.age(grant_id, -1)
        began = now(rows.sql)
        waiting = asyncio.create_task(reader.user_token(USER, CONNECTION, wait=1.5))
        rows.sql("SELECT pg_terminate_backend(%s)", await listening(rows.sql, began))
        rows.age(grant_id, 3600)
        assert (await waiting).value == "token-of-u1"
    assert selects["all"] < 15


async def test_the_end_of_somebody_elses_refresh(rows: Rows, open_reader: OpenReader) -> None:
    """Who wants more life goes on waiting when another's refresh ends that found the token good enough."""
    grant_id = await rows.add(expires_in=1200)
    reading = asyncio.create_task(open_reader().user_token(USER, CONNECTION, min_ttl=1800, wait=60))
    await requested(rows.sql)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    await asyncio.wait({reading}, timeout=1)
    rows.age(grant_id, 3600)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    assert (await reading).expires_at is not None


@pytest.mark.parametrize("payload", ["", "²", "9" * 7000, "-1", "x", "{}"])
async def test_a_wakeup_from_anybody(rows: Rows, open_reader: OpenReader, payload: str) -> None:
    """What is no grant's id, sent by whoever may connect, ends neither a wait nor the listening connection."""
    grant_id = await rows.add(expires_in=-1)
    began = now(rows.sql)
    reading = asyncio.create_task(open_reader().user_token(USER, CONNECTION, wait=60))
    backend = await listening(rows.sql, began)
    for _ in range(3):
        rows.sql("SELECT pg_notify(%s, %s)", CHANNEL, payload)
    await asyncio.wait({reading}, timeout=0.3)
    assert rows.sql("SELECT pid FROM pg_stat_activity WHERE pid = %s", backend)
    rows.age(grant_id, 3600)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    assert (await reading).value == "token-of-u1"


async def test_a_forged_end(rows: Rows, open_reader: OpenReader, selects: Counter[str]) -> None:
    """Who is told of an end that the rows do not show waits on."""
    grant_id = await rows.add(expires_in=-1)
    reading = asyncio.create_task(open_reader().user_token(USER, CONNECTION, wait=60))
    await requested(rows.sql)
    for _ in range(5):
        looks = selects["all"]
        rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
        await until_async(lambda looks=looks: selects["all"] > looks)  # type: ignore[misc]
    assert not reading.done()
    rows.age(grant_id, 3600)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    assert (await reading).value == "token-of-u1"


async def test_a_wait_for_as_long_as_it_takes(rows: Rows, open_reader: OpenReader) -> None:
    """An infinite wait is one."""
    grant_id = await rows.add(expires_in=-1)
    reading = asyncio.create_task(open_reader().user_token(USER, CONNECTION, wait=math.inf))
    await requested(rows.sql)
    rows.age(grant_id, 3600)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    assert (await reading).value == "token-of-u1"


async def test_a_note_keeps_nobody_from_asking(rows: Rows, open_reader: OpenReader) -> None:
    """Who wants more life than a token has is heard, although a read of it has just been noted as good enough."""
    await rows.add(expires_in=1200, last_read_at=datetime(2026, 1, 1, tzinfo=UTC))
    reader = open_reader()
    await reader.user_token(USER, CONNECTION)
    await requested(rows.sql)  # the note
    with pytest.raises(TemporarilyUnavailable):
        await reader.user_token(USER, CONNECTION, min_ttl=1800)
    assert len(pending(rows.sql)) == 1


async def test_postgres_lets_nobody_listen(rows: Rows, database_url: Secret, open_reader: OpenReader) -> None:
    """Where the listening connection is refused, a refresh is asked for all the same, and read when the wait is over."""
    grant_id = await rows.add(expires_in=-1)
    with reader_roles(database_url) as new_role:
        lonely = new_role()
        rows.sql(f"ALTER ROLE {conninfo_to_dict(lonely.reveal())['user']} CONNECTION LIMIT 1")
        reading = asyncio.create_task(open_reader(database=lonely).user_token(USER, CONNECTION, wait=4))
        await requested(rows.sql)
        rows.age(grant_id, 3600)
        assert (await reading).value == "token-of-u1"


async def test_a_cancelled_wait(rows: Rows, open_reader: OpenReader) -> None:
    """A caller that gives up while it waits leaves the reader in order for the others."""
    grant_id = await rows.add(expires_in=-1)
    reader = open_reader()
    began = now(rows.sql)
    waits = [asyncio.create_task(reader.user_token(USER, CONNECTION, wait=8)) for _ in range(30)]
    await listening(rows.sql, began)
    for task in waits[1:]:
        task.cancel()
    rows.age(grant_id, 3600)
    rows.sql(f"NOTIFY {CHANNEL}, '{grant_id}'")
    assert (await waits[0]).value == "token-of-u1"
    await asyncio.gather(*waits, return_exceptions=True)
    assert (await reader.user_token(USER, CONNECTION)).value == "token-of-u1"


def now(sql: Sql) -> datetime:
    found: datetime = sql("SELECT clock_timestamp() AS now")[0]["now"]
    return found


async def listening(sql: Sql, since: datetime) -> int:
    """Wait until a reader listens over a connection made since then; returns the backend's process id."""
    for _ in range(500):
        found = sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
            " AND state = 'idle' AND backend_start > %s",
            since,
        )
        if found:
            await asyncio.sleep(0.1)  # it has looked at the row once more by then, and waits
            return int(found[0]["pid"])
        await asyncio.sleep(0.01)
    raise AssertionError("no reader listens")
