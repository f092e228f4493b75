"""The queue of refresh requests: what a reader's role may do with it, and that each request is claimed by one worker."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from tests.support.reader_roles import NewRole, connect
from tests.support.readers import Rows, Sql, pending
from tests.support.wait import WAIT_SECONDS
from token_vault.database_errors import failure
from token_vault.errors import TemporarilyUnavailable
from token_vault.read_model import REPORT_REJECTED, REQUEST_REFRESH
from token_vault.secret import Secret
from worker.vault.refresh_requests import queue
from worker.vault.refresh_requests.queue import RefreshRequest
from worker.vault.vault import Vault

TENANTS = ["default"]


@pytest.fixture
def reader(new_role: NewRole) -> Iterator[psycopg.Connection[Any]]:
    """A connection of a reader's role."""
    with connect(new_role()) as connection:
        yield connection


def request(
    connection: psycopg.Connection[Any], grant_id: int, min_ttl: float | None = None, wait: float | None = 5
) -> None:
    connection.execute(REQUEST_REFRESH, (grant_id, min_ttl, wait))


def age_requests(sql: Sql, seconds: float) -> None:
    """Let everything that was noted of requests be so much older."""
    sql(
        "UPDATE refresh_requests SET requested_at = requested_at - %s, wanted_until = wanted_until - %s,"
        " due_at = due_at - %s, claimed_until = claimed_until - %s, handled_at = handled_at - %s",
        *[timedelta(seconds=seconds)] * 5,
    )


async def claim(vault: Vault, limit: int = 100) -> list[RefreshRequest]:
    return await queue.claim(vault, TENANTS, limit=limit)


# What a reader's role may do


async def test_a_readers_role_requests_and_reads_no_request(
    rows: Rows, reader: psycopg.Connection[Any], sql: Sql
) -> None:
    """EXECUTE on the function is enough to request, and gives no look at the table; nobody has it by default."""
    grant_id = await rows.add()
    request(reader, grant_id, 60)
    (row,) = pending(sql)
    assert (row["grant_id"], row["min_ttl"]) == (grant_id, 60)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT 1 FROM refresh_requests")
    sql(f"REVOKE EXECUTE ON FUNCTION request_refresh FROM {reader.info.user}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        request(reader, grant_id)


async def test_however_often_one_asks_one_row_waits(
    rows: Rows, reader: psycopg.Connection[Any], sql: Sql
) -> None:
    """A request for no more than the one that waits writes nothing; one for more life, or for longer, raises it."""
    grant_id = await rows.add()
    for _ in range(50):
        request(reader, grant_id, 60, 100)
    (first,) = sql("SELECT *, xmin::text FROM refresh_requests")
    request(reader, grant_id, 30, 50)
    assert sql("SELECT *, xmin::text FROM refresh_requests") == [first]
    request(reader, grant_id, 600, 50)
    request(reader, grant_id, 30, 500)
    (row,) = pending(sql)
    assert row["min_ttl"] == 600
    assert row["wanted_until"] > first["wanted_until"] + timedelta(seconds=300)


@pytest.mark.parametrize("wild", [None, -1.0, math.inf, -math.inf, math.nan, 1e308])
async def test_arguments_are_bounded(
    rows: Rows, reader: psycopg.Connection[Any], sql: Sql, wild: float | None
) -> None:
    """Whatever is asked for, a request lasts between half a minute and a day, and its life is a number of seconds."""
    request(reader, await rows.add(), wild, wild)
    (row,) = pending(sql)
    assert 0 <= row["min_ttl"] <= 315_360_000
    assert timedelta(seconds=30) <= row["wanted_until"] - row["requested_at"] <= timedelta(days=1)


async def test_what_is_not_served_is_not_requested(
    rows: Rows, reader: psycopg.Connection[Any], sql: Sql
) -> None:
    """A grant that is not there, was erased, or that the role may not see: nothing is written, and nothing told."""
    grant_id = await rows.add()
    request(reader, grant_id + 1000)
    request(reader, -(2**63))
    sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL"
    )
    request(reader, grant_id)
    other = await rows.add("oauth2|u2", subject="u2")
    sql(f"REVOKE SELECT ON served_tokens FROM {reader.info.user}")
    request(reader, other)
    assert sql("SELECT * FROM refresh_requests") == []


async def test_a_flood_of_one_role_is_bounded(
    rows: Rows, reader: psycopg.Connection[Any], new_role: NewRole, sql: Sql
) -> None:
    """So many requests of a role wait and no more, and another role's are taken all the same."""
    grant_id = await rows.add()
    sql(
        "INSERT INTO refresh_requests SELECT -n, %s, now(), now() + interval '1 day', 0, now() FROM generate_series(1, 1000) n",
        reader.info.user,
    )
    with pytest.raises(psycopg.Error) as refused:
        request(reader, grant_id)
    told = failure(refused.value)
    assert isinstance(told, TemporarilyUnavailable)
    assert "requests" in str(told)
    ((version,),) = (row.values() for row in sql("SELECT access_version FROM grants WHERE id = %s", grant_id))
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        reader.execute(REPORT_REJECTED, (grant_id, version))
    with connect(new_role()) as other:
        request(other, grant_id)
        taken = [row["requested_by"] for row in pending(sql) if row["grant_id"] == grant_id]
        assert taken == [other.info.user]


async def test_an_open_transaction_holds_up_nobody_else(
    rows: Rows, reader: psycopg.Connection[Any], new_role: NewRole, sql: Sql, vault: Vault
) -> None:
    """A role that requests and does not commit keeps no lock on the grant, nor on what others request of it."""
    grant_id = await rows.add()
    sql("UPDATE grants SET due_at = now() - interval '1 s'")
    with connect(new_role(), autocommit=False) as hostile:
        request(hostile, grant_id)
        request(reader, grant_id)
        assert [each.requested_by for each in await claim(vault)] == [reader.info.user]
        sql("SET lock_timeout = '1s'")
        assert len(sql("SELECT id FROM grants FOR UPDATE SKIP LOCKED")) == 1
        hostile.rollback()


async def test_an_open_transaction_holds_up_no_worker(
    rows: Rows, reader: psycopg.Connection[Any], new_role: NewRole, sql: Sql, vault: Vault
) -> None:
    """A role that asks again and does not commit keeps its own request from its end, and the others' from nothing."""
    grant_id = await rows.add()
    with connect(new_role(), autocommit=False) as hostile:
        request(hostile, grant_id, 60)
        hostile.commit()
        (claimed,) = await claim(vault)
        request(hostile, grant_id, 600)
        with pytest.raises(OperationalError) as waited:
            await queue.finish(vault, claimed)
        assert isinstance(waited.value.orig, psycopg.errors.LockNotAvailable)
        hostile.rollback()
        await queue.finish(vault, claimed)
        request(reader, grant_id, 60)
        for each in await claim(vault):
            await queue.finish(vault, each)
        age_requests(sql, 20)
        request(hostile, grant_id, 600)
        await queue.delete_over(vault)
        assert [row["requested_by"] for row in sql("SELECT * FROM refresh_requests")] == [
            claimed.requested_by
        ]


async def test_ones_own_schema_changes_nothing(rows: Rows, reader: psycopg.Connection[Any], sql: Sql) -> None:
    """What a role puts in the way of a name, in pg_temp or elsewhere, the function does not see."""
    grant_id = await rows.add()
    reader.execute("CREATE TEMP TABLE refresh_requests (LIKE served_tokens)")
    reader.execute("CREATE TEMP TABLE served_tokens (id bigint, state text)")
    reader.execute(
        "CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now() + interval ''9 days'''"
    )
    reader.execute("SET search_path = pg_temp, public")
    reader.execute("SELECT public.request_refresh(%s, 0, 0)", (grant_id,))
    (row,) = pending(sql)
    assert row["requested_at"] < sql("SELECT now() + interval '1 hour' AS later")[0]["later"]


async def test_a_role_that_is_taken_on_is_the_one_that_asks(
    rows: Rows, new_role: NewRole, database_url: Secret, sql: Sql
) -> None:
    """Who has taken on a role by SET ROLE asks with its rights and in its name."""
    grant_id = await rows.add()
    with connect(new_role()) as member:
        role = member.info.user
    with connect(database_url) as owner:
        owner.execute(f"GRANT {role} TO CURRENT_USER")
        owner.execute(f"SET ROLE {role}")
        request(owner, grant_id)
    assert [row["requested_by"] for row in pending(sql)] == [role]


# Who carries it out


async def test_a_request_is_claimed_by_one(rows: Rows, reader: psycopg.Connection[Any], vault: Vault) -> None:
    """Of many workers that look at once each takes requests that no other has."""
    wanted = {await rows.add(f"oauth2|u{number}", subject=f"u{number}") for number in range(20)}
    for grant_id in wanted:
        request(reader, grant_id)
    taken = [
        each.grant_id
        for found in await asyncio.gather(*(claim(vault, 5) for _ in range(8)))
        for each in found
    ]
    taken += [each.grant_id for each in await claim(vault)]
    assert sorted(taken) == sorted(wanted)


async def test_a_dead_workers_request_is_anothers(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """A claim ends by itself, after longer than a refresh takes, and the request is claimed again."""
    request(reader, await rows.add(), wait=3600)
    assert len(await claim(vault)) == 1
    age_requests(sql, queue.CLAIM_TIME.total_seconds() - 5)
    assert await claim(vault) == []
    age_requests(sql, 10)
    assert len(await claim(vault)) == 1


async def test_a_dead_readers_request_is_dropped(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """When nobody waits any more, a request is carried out no more, and deleted."""
    request(reader, await rows.add(), wait=60)
    age_requests(sql, 61)
    assert await claim(vault) == []
    await queue.delete_over(vault)
    assert sql("SELECT * FROM refresh_requests") == []


async def test_a_request_under_way_is_seen_to_its_end(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """One that is carried out is not deleted when its reader's wait ends, as its end is recorded in it."""
    request(reader, await rows.add())
    assert len(await claim(vault)) == 1
    sql("UPDATE refresh_requests SET wanted_until = now() - interval '1 s'")
    await queue.delete_over(vault)
    assert len(sql("SELECT 1 FROM refresh_requests")) == 1
    age_requests(sql, queue.CLAIM_TIME.total_seconds() + 1)
    await queue.delete_over(vault)
    assert sql("SELECT 1 FROM refresh_requests") == []


async def test_the_end_of_a_role_s_request_ends_no_other_role_s(
    rows: Rows, reader: psycopg.Connection[Any], new_role: NewRole, vault: Vault, sql: Sql
) -> None:
    """What another role asks of the same grant stays claimed until it is done."""
    grant_id = await rows.add()
    with connect(new_role()) as other:
        request(other, grant_id, 600)
    request(reader, grant_id, 60)
    sql("UPDATE refresh_requests SET requested_at = now()")
    first, second = await claim(vault)
    await queue.finish(vault, first)
    (left,) = sql("SELECT * FROM refresh_requests WHERE handled_at IS NULL")
    assert left["requested_by"] == second.requested_by
    assert left["claimed_until"] is not None


async def test_another_tenants_requests_are_left(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault
) -> None:
    """A worker takes what is asked of its own tenants' grants."""
    request(reader, await rows.add(tenant="other"))
    assert await claim(vault) == []
    assert len(await queue.claim(vault, ["other"], limit=1)) == 1


async def test_a_role_with_many_requests_does_not_crowd_out_others(
    rows: Rows, reader: psycopg.Connection[Any], new_role: NewRole, vault: Vault
) -> None:
    """Roles take turns: the first request of one comes before the second of another."""
    for number in range(20):
        request(reader, await rows.add(f"oauth2|u{number}", subject=f"u{number}"))
    last = await rows.add("oauth2|last", subject="last")
    with connect(new_role()) as other:
        request(other, last)
        assert other.info.user in {each.requested_by for each in await claim(vault, 2)}


async def test_requests_of_a_grant_have_a_least_interval(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """A grant that was just refreshed is taken up again a second later, and not at once."""
    grant_id = await rows.add()
    request(reader, grant_id)
    (first,) = await claim(vault)
    await queue.finish(vault, first)
    request(reader, grant_id)
    assert await claim(vault) == []
    (row,) = pending(sql)
    assert row["due_at"] - row["requested_at"] > timedelta(seconds=0.5)
    age_requests(sql, 1)
    assert len(await claim(vault)) == 1


async def test_more_that_is_wanted_meanwhile_is_done_next(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """Who asks for more life while a request is carried out is heard when that is done."""
    grant_id = await rows.add()
    request(reader, grant_id, 60)
    (first,) = await claim(vault)
    request(reader, grant_id, 600)
    assert await claim(vault) == []
    await queue.finish(vault, first)
    age_requests(sql, 1)
    (second,) = await claim(vault)
    assert second.min_ttl == 600
    await queue.finish(vault, second)
    assert pending(sql) == []


async def test_who_waits_longer_is_served_by_the_same_refresh(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault, sql: Sql
) -> None:
    """Who comes while a request is carried out and wants no more life, for however long, begins nothing anew."""
    grant_id = await rows.add()
    request(reader, grant_id, 60, 60)
    (first,) = await claim(vault)
    request(reader, grant_id, 60, 6000)
    await queue.finish(vault, first)
    assert pending(sql) == []


async def test_the_end_of_a_request_wakes_who_waits(
    rows: Rows, reader: psycopg.Connection[Any], vault: Vault
) -> None:
    """When a request is done, that is committed before anybody is told."""
    grant_id = await rows.add()
    reader.execute("LISTEN token_vault_grants")
    request(reader, grant_id)
    (claimed,) = await claim(vault)
    await queue.finish(vault, claimed)
    assert [each.payload for each in reader.notifies(timeout=WAIT_SECONDS, stop_after=1)] == [str(grant_id)]


async def test_a_role_reports_what_it_may_read(
    rows: Rows, new_role: NewRole, reader: psycopg.Connection[Any], sql: Sql
) -> None:
    """A report of a token that is there waits for a worker; a wrong id or version, and a role without rights, ask nothing."""
    grant_id = await rows.add(expires_in=1800)
    for wrong in ((grant_id, 0), (grant_id, 2), (grant_id + 1, 1), (None, 1), (grant_id, None)):
        reader.execute(REPORT_REJECTED, wrong)
    assert pending(sql) == []
    reader.execute(REPORT_REJECTED, (grant_id, 1))
    (row,) = pending(sql)
    assert (row["requested_by"], row["rejected_version"], row["min_ttl"]) == (reader.info.user, 1, 0)
    request(reader, grant_id, 60)  # a wish beside it is kept, and the report as well
    (row,) = pending(sql)
    assert (row["rejected_version"], row["min_ttl"]) == (1, 60)
    sql(f"REVOKE EXECUTE ON FUNCTION report_rejected FROM {reader.info.user}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(REPORT_REJECTED, (grant_id, 1))


async def test_requests_for_several_targets_are_each_their_own(vault: Vault, rows: Rows, sql: Sql) -> None:
    """A token for one resource is claimed and finished alone: who waits for another's is not told that it is there."""
    grant_id = await rows.add()
    for resource in ("", "https://a.example", "https://b.example"):
        sql(
            "INSERT INTO refresh_requests (grant_id, requested_by, resource, scope, requested_at, wanted_until, min_ttl,"
            " due_at) VALUES (%s, 'app', %s, '', now(), now() + interval '1 h', 0, now())",
            grant_id, resource,
        )  # fmt: skip
    [first] = await claim(vault, limit=1)
    await queue.finish(vault, first)
    others = await claim(vault)
    assert {first.resource, *(each.resource for each in others)} == {
        "",
        "https://a.example",
        "https://b.example",
    }
    assert len(others) == 2
