"""The audit's partitions, and the copy of its records in a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.reader_roles import connect
from tests.support.readers import Sql
from tests.support.role_members import role_members
from tests.support.wait import WAIT_SECONDS
from token_vault.errors import ConfigurationError
from token_vault.read_records import RECORD_READS, ReadRecord, to_json
from token_vault.secret import Secret
from worker.audit import keep_audit
from worker.vault.audit import records
from worker.vault.vault import Vault

PARTITIONS = (
    "SELECT relname, pg_get_expr(relpartbound, oid) AS bound FROM pg_class"
    " WHERE relispartition AND relkind = 'r' AND relname LIKE 'audit_records%' ORDER BY 1"
)


@pytest.fixture(autouse=True)
def restored(sql: Sql) -> Iterator[None]:
    """Nothing is shipped before a test, and its changes do not outlive it."""
    sql("UPDATE audit_state SET keep = '400 days', shipped_xact = 0, shipped_id = 0")
    yield
    sql("UPDATE audit_state SET keep = '400 days'")
    sql("SELECT maintain_audit()")


def record(connection: psycopg.Connection[object], *users: str) -> None:
    connection.execute(RECORD_READS, [to_json([ReadRecord(user, "c", "served") for user in users])])


async def shipped(vault: Vault, path: Path, *users: str) -> None:
    """Wait until the file names these users.

    A transaction in any database of the server, also another test process's, holds back what came after it.
    """
    async with asyncio.timeout(WAIT_SECONDS):
        while len(lines(path)) < len(users):
            await keep_audit(vault, path)
    assert sorted(lines(path)) == sorted(users)


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line)["user_id"] for line in text.splitlines()]


async def test_partitions_are_made_ahead(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """Records of this month and the next three have a partition, and those that came without one are moved into it."""
    before = sql(PARTITIONS)
    assert len(before) >= 5
    ((month,),) = [tuple(row.values()) for row in sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")]
    sql(f"DROP TABLE audit_records_{month}")
    with connect(database_url) as connection:
        record(connection, "early")
    assert [row["user_id"] for row in sql("SELECT user_id FROM audit_records_default")] == ["early"]
    await records.maintain(vault)
    assert sql(PARTITIONS) == before
    assert sql("SELECT user_id FROM audit_records_default") == []
    assert [row["user_id"] for row in sql(f"SELECT user_id FROM audit_records_{month}")] == ["early"]


async def test_records_go_with_their_month(vault: Vault, sql: Sql) -> None:
    """What is older than is kept is deleted: whole months, and what has no partition by the row."""
    sql(
        "CREATE TABLE audit_records_2020_01 PARTITION OF audit_records FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
    )
    for at in ("2020-01-15Z", "2021-01-15Z", "now"):
        sql(
            "INSERT INTO audit_records (at, source, role, connection, user_id, outcome)"
            " VALUES (%s, 'reader', 'r', 'c', %s, 'served')", at, at,
        )  # fmt: skip
    sql("UPDATE audit_state SET keep = interval '100 years'")
    await records.maintain(vault)
    assert len(sql("SELECT * FROM audit_records")) == 3
    sql("UPDATE audit_state SET keep = interval '400 days'")
    await records.maintain(vault)
    assert [row["user_id"] for row in sql("SELECT user_id FROM audit_records")] == ["now"]
    assert "audit_records_2020_01" not in {row["relname"] for row in sql(PARTITIONS)}
    # A month of which some days are kept is kept.
    sql(
        "INSERT INTO audit_records (at, source, role, connection, user_id, outcome)"
        " VALUES (date_trunc('month', now(), 'UTC') - interval '1 h', 'reader', 'r', 'c', 'last month', 'served')"
    )
    sql(
        "UPDATE audit_state SET keep = now() - (date_trunc('month', now(), 'UTC') - interval '1 month') - interval '1 day'"
    )
    await records.maintain(vault)
    assert len(sql("SELECT * FROM audit_records")) == 2


async def test_each_record_is_shipped_once(vault: Vault, database_url: Secret, tmp_path: Path) -> None:
    """Workers that look at the same time append each record once, and a later look appends what is new."""
    path = tmp_path / "audit.jsonl"
    with connect(database_url) as connection:
        record(connection, "a", "b")
        await asyncio.gather(*(keep_audit(vault, path) for _ in range(4)))
        await shipped(vault, path, "a", "b")
        record(connection, "c")
        await shipped(vault, path, "a", "b", "c")
    assert lines(path)[2:] == ["c"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_late_commit_is_not_passed_over(vault: Vault, database_url: Secret, tmp_path: Path) -> None:
    """A record that was written first and committed last is shipped all the same."""
    path = tmp_path / "audit.jsonl"
    with connect(database_url, autocommit=False) as slow, connect(database_url) as fast:
        record(slow, "slow")
        record(fast, "fast")
        await keep_audit(vault, path)
        slow.commit()
        await shipped(vault, path, "fast", "slow")


async def test_a_file_that_cannot_be_written_loses_nothing(
    vault: Vault, database_url: Secret, tmp_path: Path
) -> None:
    """The operator is told which file, and the records are shipped once it can be written."""
    path = tmp_path / "folder" / "audit.jsonl"
    with connect(database_url) as connection:
        record(connection, "a")
    with pytest.raises(ConfigurationError, match=r"audit\.jsonl"):
        await shipped(vault, path, "a")
    path.parent.mkdir()
    await shipped(vault, path, "a")


async def test_a_worker_cannot_shorten_what_is_kept(vault: Vault, database_url: Secret, sql: Sql) -> None:
    """Workers maintain the audit, and cannot say for how long records are kept."""
    with connect(database_url) as connection:
        record(connection, "a")
    with role_members(database_url) as new_member, connect(new_member("vault_worker")) as worker:
        worker.execute("SELECT maintain_audit()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            worker.execute("UPDATE audit_state SET keep = interval '1 s'")
    assert len(sql("SELECT * FROM audit_records")) == 1
