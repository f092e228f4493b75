"""A connection that is kept for statements which follow each other, and what becomes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError

from tests.integration.vault.test_obtained_pairs import ANSWERS, NOW, claimed
from tests.support.renewals import Sql
from worker.renewal.group_commit import GroupCommit
from worker.vault.claims import Claim, ObtainedPair
from worker.vault.db.engine import driver_connection
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault

PID = text("SELECT pg_backend_pid(), CAST(:number AS bigint) * 2, CAST(:number AS text) WHERE :word <> ''")


async def pid_of(kept: KeptConnection) -> int:
    ((pid, *rest),) = await kept.run(PID, {"word": "x", "number": "21"})
    assert rest == [42, "21"]
    return int(pid)


def held(vault: Vault) -> int:
    """How many connections are out of the pool."""
    out: int = vault.engine.sync_engine.pool.checkedout()  # type: ignore[attr-defined]  # of a queue pool
    return out


async def test_a_block_keeps_one_connection(vault: Vault) -> None:
    """Within blocks all statements go over one connection, which is back in the pool once the last of them has ended."""
    kept = KeptConnection(vault)
    async with kept.keep():
        first = await pid_of(kept)
        async with kept.keep():
            assert await pid_of(kept) == first
        assert await asyncio.gather(*(pid_of(kept) for _ in range(5))) == [first] * 5
        assert held(vault) == 1
    assert held(vault) == 0


async def test_outside_of_blocks_nothing_is_kept(vault: Vault) -> None:
    """Without a block the connection is back in the pool after each statement, and another block may begin."""
    kept = KeptConnection(vault)
    await pid_of(kept)
    assert held(vault) == 0
    async with kept.keep():
        assert held(vault) == 0  # nothing is taken before it is needed


async def test_statements_are_prepared_again_after_a_rollback(vault: Vault) -> None:
    """The driver deallocates all statements after a rollback: the same connection goes on."""
    kept = KeptConnection(vault)
    async with kept.keep():
        first = await pid_of(kept)
        assert kept._connection is not None
        driver = await driver_connection(kept._connection)
        await driver.execute("DEALLOCATE ALL")
        assert await pid_of(kept) == first


async def test_a_lost_connection_is_replaced(vault: Vault, sql: Sql) -> None:
    """Where Postgres has ended the connection the statement goes over another, and the pool keeps no dead one."""
    kept = KeptConnection(vault)
    async with kept.keep():
        sql("SELECT pg_terminate_backend(%s)", lost := await pid_of(kept))
        assert await pid_of(kept) != lost
        assert await pid_of(kept) == await pid_of(kept)
    assert held(vault) == 0
    assert await pid_of(kept) != lost


async def test_failures_are_those_of_other_statements(vault: Vault) -> None:
    """What Postgres refuses, or does not answer in time, is raised as by any other statement, and is not repeated."""
    kept = KeptConnection(vault)
    async with kept.keep():
        with pytest.raises(DataError):
            await kept.run(PID, {"word": "x", "number": "none"})
        connection = await kept._take()
        (await driver_connection(connection)).answer_seconds = 0.05
        kept._connection = connection
        with pytest.raises(OperationalError):
            await kept.run(text("SELECT pg_sleep(20), :word"), {"word": "x"})
        await pid_of(kept)
    assert held(vault) == 0


async def test_answers_are_committed_though_the_connection_is_lost(vault: Vault, sql: Sql) -> None:
    """Where Postgres has ended the kept connection between two groups, the second group is committed as a group."""
    first, second, third = await claimed(vault, sql, "c", 3)
    group = GroupCommit(vault)

    async def store(*mine: Claim) -> list[bool]:
        pairs = [ObtainedPair(claim, ANSWERS[0], NOW, NOW + timedelta(hours=1)) for claim in mine]
        return await asyncio.gather(*map(group.store, pairs))

    async with group.connection.keep():
        assert await store(first) == [True]
        sql("SELECT pg_terminate_backend(%s)", await pid_of(group.connection))
        with structlog.testing.capture_logs() as logs:
            assert await store(second, third) == [True, True]
    assert "answers.commit_failed" not in {entry["event"] for entry in logs}
    assert {row["obtained_from"] for row in sql("SELECT obtained_from FROM grants")} == {"renewal"}
