"""Each read leaves a record, off the reader's path; a strict reader gives no token without one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

from tests.integration.client.test_shared_reader import in_child
from tests.support.keys import ACCESS_KEY
from tests.support.reader_roles import NewRole
from tests.support.readers import Rows, Sql
from token_vault import AsyncTokenVault, TemporarilyUnavailable, TokenNotFound, TokenVault, read_records
from token_vault.postgres_address import PostgresAddress
from token_vault.read_records import RECORD_READS, ReadRecord, ReadRecorder, to_json
from token_vault.secret import Secret

TOKEN = "canary-token-of-u1"


def records(sql: Sql, number: int) -> list[dict[str, Any]]:
    """Wait for so many records; oldest first."""
    for _ in range(500):
        if len(found := sql("SELECT * FROM audit_records ORDER BY at, id")) >= number:
            assert len(found) == number
            return found
        time.sleep(0.02)
    raise AssertionError(f"{len(found)} records instead of {number}")


async def test_a_read_is_recorded_under_the_role(rows: Rows, new_role: NewRole, sql: Sql) -> None:
    """The record says who read what, when, why, and what came of it, and never holds the token."""
    await rows.add(value=TOKEN)
    with TokenVault(url := new_role(), [ACCESS_KEY]) as vault:
        vault.user_token("oauth2|u1", "custom", request_id="req-1", reason="send an invitation")
        with pytest.raises(TokenNotFound):
            vault.user_token("oauth2|nobody", "custom", account="77")
        served, missing = await asyncio.to_thread(records, sql, 2)
    role = psycopg.conninfo.conninfo_to_dict(url.reveal())["user"]
    expected = {
        "source": "reader", "consumer": role, "role": role, "tenant": "default", "connection": "custom",
        "user_id": "oauth2|u1", "account": "u1", "outcome": "served", "request_id": "req-1", "reason": "send an invitation",
    }  # fmt: skip
    assert {name: served[name] for name in expected} == expected
    assert (missing["user_id"], missing["account"], missing["outcome"]) == (
        "oauth2|nobody",
        "77",
        "TokenNotFound",
    )
    assert TOKEN not in str([served, missing])
    ((now,),) = [tuple(row.values()) for row in sql("SELECT now()")]
    assert 0 <= (now - served["at"]).total_seconds() < 60


async def test_asyncio_records_too(rows: Rows, new_role: NewRole, sql: Sql) -> None:
    """Reads from an event loop are recorded, the last of them when the reader is closed."""
    await rows.add()
    async with AsyncTokenVault(new_role(), [ACCESS_KEY]) as vault:
        await asyncio.gather(*(vault.user_token("oauth2|u1", "custom") for _ in range(50)))
    assert len(await asyncio.to_thread(records, sql, 50)) == 50


async def test_what_postgres_cannot_hold_is_recorded_all_the_same(database_url: Secret, sql: Sql) -> None:
    """A NUL or half a surrogate pair in a name costs no record, neither its own nor others'."""
    with TokenVault(database_url, [ACCESS_KEY]) as vault:
        for name in ("a\0b", "\ud800", "x" * 5000):
            with pytest.raises(TokenNotFound):
                vault.user_token(name, "custom", reason=name)
    assert [len(row["user_id"]) for row in records(sql, 3)] == [3, 1, 500]


async def test_records_wait_while_postgres_takes_none(
    rows: Rows, new_role: NewRole, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on; their records are written later, and only so many wait, the newest."""
    monkeypatch.setattr(read_records, "MAX_PENDING", 10)
    monkeypatch.setattr(read_records, "MAX_RETRY_SECONDS", 0.1)
    await rows.add()
    role = new_role()
    name = psycopg.conninfo.conninfo_to_dict(role.reveal())["user"]
    sql(f'REVOKE EXECUTE ON FUNCTION record_reads FROM "{name}"')
    with TokenVault(role, [ACCESS_KEY]) as vault:
        for number in range(25):
            vault.user_token("oauth2|u1", "custom", request_id=str(number))
        await asyncio.sleep(0.7)  # a batch fails meanwhile
        assert sql("SELECT * FROM audit_records") == []
        sql(f'GRANT EXECUTE ON FUNCTION record_reads TO "{name}"')
        found = await asyncio.to_thread(records, sql, 10)
    assert [row["request_id"] for row in found] == [str(number) for number in range(15, 25)]


@pytest.mark.parametrize("kind", [TokenVault, AsyncTokenVault])
async def test_a_strict_reader_gives_no_token_unrecorded(
    rows: Rows, new_role: NewRole, sql: Sql, kind: type[TokenVault | AsyncTokenVault]
) -> None:
    """The record is committed before the token is handed out, or the read is refused."""
    await rows.add()
    role = new_role()
    vault = kind(role, [ACCESS_KEY], audit="strict")

    async def read() -> None:
        if isinstance(vault, TokenVault):
            vault.user_token("oauth2|u1", "custom")
        else:
            await vault.user_token("oauth2|u1", "custom")

    await read()
    assert [row["outcome"] for row in sql("SELECT outcome FROM audit_records")] == ["served"]
    name = psycopg.conninfo.conninfo_to_dict(role.reveal())["user"]
    sql(f'REVOKE EXECUTE ON FUNCTION record_reads FROM "{name}"')
    with pytest.raises(TemporarilyUnavailable, match="audit is strict") as refused:
        await read()
    assert (refused.value.user_id, refused.value.connection) == ("oauth2|u1", "custom")
    closed = vault.close()
    if closed is not None:
        await closed


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_forked_processes_record_their_own_reads(rows: Rows, database_url: Secret, sql: Sql) -> None:
    """Each process writes its own records, and none of its parent's twice."""
    await rows.add()
    with TokenVault(database_url, [ACCESS_KEY]) as vault:
        vault.user_token("oauth2|u1", "custom", request_id="parent")

        def child() -> None:
            vault.user_token("oauth2|u1", "custom", request_id=str(os.getpid()))
            vault.close()

        ended = [in_child(child) for _ in range(3)]
        assert [await asyncio.to_thread(wait) for wait in ended] == [0, 0, 0]
        found = await asyncio.to_thread(records, sql, 4)
    assert len({row["request_id"] for row in found}) == 4


async def test_the_end_of_a_process_loses_no_record(rows: Rows, database_url: Secret, sql: Sql) -> None:
    """A script that reads and ends has its read recorded, without closing anything."""
    await rows.add()
    program = (
        "from token_vault import TokenVault\n"
        f"TokenVault({database_url.reveal()!r}, [{ACCESS_KEY.reveal()!r}]).user_token('oauth2|u1', 'custom')\n"
    )
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", program], check=True, timeout=60
    )
    assert len(records(sql, 1)) == 1


def test_a_killed_process_loses_a_second(database_url: Secret, sql: Sql) -> None:
    """What was read more than a second ago is recorded, however the process ends."""
    program = (
        "import os, time\nfrom token_vault.read_records import ReadRecord, ReadRecorder\n"
        "from token_vault.postgres_address import PostgresAddress\n"
        f"recorder = ReadRecorder(PostgresAddress.parse({database_url.reveal()!r}))\n"
        "recorder.record(ReadRecord('u', 'c', 'served'))\n"
        "input()\nos.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        assert len(records(sql, 1)) == 1
        process.communicate(b"\n")
    assert read_records.FLUSH_SECONDS <= 1


def test_a_roles_records_bear_its_own_name(new_role: NewRole, sql: Sql) -> None:
    """Whatever a consumer claims, its records are its own, and of now."""
    url = new_role()
    role = psycopg.conninfo.conninfo_to_dict(url.reveal())["user"]
    claim = ReadRecord("u", "c", "served", consumer="another", source="api")
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        connection.execute(RECORD_READS, [to_json([claim])])
        connection.execute(
            RECORD_READS, ['[{"age": 1e12, "user_id": "old"}, {"age": -1e12, "user_id": "new"}]']
        )
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            connection.execute(RECORD_READS, [to_json([claim] * 1001)])
    for row in sql("SELECT *, now() - at AS age FROM audit_records"):
        assert (row["consumer"], row["role"], row["source"]) == (role, role, "reader")
        assert -1 < row["age"].total_seconds() < 3700


def test_who_records_for_others_names_them(database_url: Secret, sql: Sql) -> None:
    """Workers and the API say whose read it was."""
    recorder = ReadRecorder(PostgresAddress.parse(database_url))
    recorder.record_now(ReadRecord("u", "c", "served", consumer="calendar", source="api"))
    recorder.close()
    (row,) = sql("SELECT consumer, source FROM audit_records")
    assert (row["consumer"], row["source"]) == ("calendar", "api")
