"""Who waits for another worker's claim on a grant: woken, or by polling."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from tests.support.readers import Rows, Sql
from tests.support.wait import WAIT_SECONDS, until_async
from worker.vault.claims import wait
from worker.vault.claims.wait import wait_for_release
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

CLAIM = "UPDATE grants SET claim_owner = gen_random_uuid(), claimed_at = now(), claim_until = now() + interval '1 h'"
LISTENING = text("SELECT pg_listening_channels()")
RELEASE = "UPDATE grants SET claim_owner = NULL, claimed_at = NULL, claim_until = NULL"


def waiting(vault: Vault, grant: int, seconds: float = WAIT_SECONDS) -> asyncio.Task[None]:
    """Wait for a grant in the background."""
    deadline = asyncio.get_running_loop().time() + seconds
    return asyncio.create_task(wait_for_release(vault, grant, deadline=deadline))


async def marked(sql: Sql) -> None:
    """Return when somebody has asked for a wakeup."""
    await until_async(lambda: sql("SELECT 1 FROM grants WHERE awaited"))


async def test_the_wakeup_of_this_grant_ends_a_wait(
    vault: Vault, rows: Rows, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of another one; and the connection that goes back to the pool listens no more."""
    monkeypatch.setattr(wait, "POLL_SECONDS", 10 * WAIT_SECONDS)
    grant = await rows.add()
    sql(CLAIM)
    ended = waiting(vault, grant, 10 * WAIT_SECONDS)
    await marked(sql)
    await wake(vault, [grant + 1])
    await asyncio.sleep(0.05)
    assert not ended.done()
    await wake(vault, [grant])
    async with asyncio.timeout(WAIT_SECONDS):
        await ended
    async with vault.session() as one, vault.session() as another:
        for connection in (one, another):
            assert (await connection.execute(LISTENING)).all() == []


async def test_a_lost_wakeup_costs_a_moment(
    vault: Vault, rows: Rows, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row says that the claim has ended, or run out."""
    monkeypatch.setattr(wait, "POLL_SECONDS", 0.02)
    grant = await rows.add()
    for end in (RELEASE, "UPDATE grants SET claim_until = now()"):
        sql(CLAIM)
        ended = waiting(vault, grant, 10 * WAIT_SECONDS)
        await marked(sql)
        await asyncio.sleep(0.05)
        assert not ended.done()
        sql(f"{end}, awaited = false")
        async with asyncio.timeout(WAIT_SECONDS):
            await ended


async def test_what_nobody_claims_is_not_waited_for(vault: Vault, rows: Rows, sql: Sql) -> None:
    """Nor is a live claim, beyond the deadline."""
    grant = await rows.add()
    async with asyncio.timeout(WAIT_SECONDS):
        await waiting(vault, grant, 10 * WAIT_SECONDS)
        assert sql("SELECT awaited FROM grants") == [{"awaited": False}]
        sql(CLAIM)
        began = asyncio.get_running_loop().time()
        await waiting(vault, grant, 0.05)
        assert asyncio.get_running_loop().time() - began >= 0.05
