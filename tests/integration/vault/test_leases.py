"""Leases: one process at a time, and no role but the workers' can hold one up."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.support.reader_roles import connect, reader_roles
from tests.support.readers import Sql
from tests.support.wait import until_async
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker.vault import leases
from worker.vault.leases import lease, try_lease
from worker.vault.vault import Vault

NAME = "sync of default"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are extended after a moment."""
    monkeypatch.setattr(leases, "EXTEND_SECONDS", 0.02)


async def test_one_holds_it_at_a_time(vault: Vault, sql: Sql) -> None:
    """Another gets nothing while a lease is held, and gets it at once afterwards."""
    async with try_lease(vault, NAME) as first:
        async with try_lease(vault, NAME) as second, try_lease(vault, "sync of another") as other:
            assert (first, second, other) == (True, False, True)
        assert [row["name"] for row in sql("SELECT name FROM leases")] == [NAME]
    assert sql("SELECT name FROM leases") == []
    async with try_lease(vault, NAME) as third:
        assert third


async def test_who_waits_gets_it_next(vault: Vault) -> None:
    """Work that takes turns is done by one after the other."""
    under_way, most = 0, 0

    async def work() -> None:
        nonlocal under_way, most
        async with lease(vault, NAME):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

    await asyncio.gather(*(work() for _ in range(4)))
    assert (under_way, most) == (0, 1)


async def test_nobody_waits_for_ever(vault: Vault, sql: Sql) -> None:
    """Who waits too long is told what for."""
    sql("INSERT INTO leases VALUES (%s, 'another', now() + interval '1 hour')", NAME)
    with pytest.raises(TemporarilyUnavailable, match=NAME):
        await lease(vault, NAME, wait=0.0).__aenter__()


async def test_a_dead_holders_lease_ends(vault: Vault, sql: Sql) -> None:
    """A lease that is extended no more goes to who asks next."""
    sql("INSERT INTO leases VALUES (%s, 'dead', now() - interval '1 second')", NAME)
    async with try_lease(vault, NAME) as is_held:
        assert is_held


@pytest.mark.usefixtures("hurried")
async def test_a_lease_lasts_as_long_as_its_holder(vault: Vault, sql: Sql) -> None:
    """Work of hours keeps its lease."""
    async with try_lease(vault, NAME):
        before = sql("SELECT held_until FROM leases")
        await until_async(lambda: sql("SELECT held_until FROM leases") != before)


@pytest.mark.usefixtures("hurried")
async def test_work_ends_with_its_lease(vault: Vault, sql: Sql) -> None:
    """Who was paused until another took over stops at once, and leaves the other's lease alone."""

    async def work() -> None:
        async with try_lease(vault, NAME):
            sql("UPDATE leases SET owner = 'another'")
            await asyncio.Event().wait()

    with pytest.raises(TemporarilyUnavailable, match=NAME):
        await work()
    assert [row["owner"] for row in sql("SELECT owner FROM leases")] == ["another"]


async def test_a_reader_holds_no_lease_up(vault: Vault, database_url: Secret) -> None:
    """A reader's role may take every advisory lock; leases are none of its business."""
    with reader_roles(database_url) as new_role, connect(new_role()) as reader:
        reader.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (NAME,))
        for statement in (
            "INSERT INTO leases VALUES ('sync of default', 'me', 'infinity')",
            "SELECT * FROM leases FOR UPDATE",
            "BEGIN; LOCK TABLE leases IN ACCESS SHARE MODE",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement.encode())
            reader.rollback()
        async with try_lease(vault, NAME) as is_held:
            assert is_held
