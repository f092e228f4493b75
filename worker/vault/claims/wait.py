"""Waits until another worker's claim ends."""

from __future__ import annotations

import asyncio
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.read_model import CHANNEL
from worker.vault.db.engine import driver_connection
from worker.vault.vault import Vault

# A wakeup may get lost, so the row is polled as well.
POLL_SECONDS = 2.0

_IS_CLAIMED = text("SELECT FROM grants WHERE id = :id AND claim_until > clock_timestamp()")


async def wait_for_release(vault: Vault, grant_id: int, *, deadline: float) -> None:
    """Wait until another worker's claim has ended, or the deadline.

    The wait occupies a connection of the pool.

    Args:
        deadline: on the event loop's clock.
    """
    async with vault.session() as connection:
        is_pooled = (await driver_connection(connection)).is_pooled
        # Listen first, so that a claim that ends right after the row is marked wakes this wait.
        if not is_pooled:
            await connection.execute(text(f"LISTEN {CHANNEL}"))
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        is_claimed = await mark_awaited(connection, grant_id, now)
        while is_claimed:
            seconds = deadline - asyncio.get_running_loop().time()
            if seconds <= 0 or await _is_woken(connection, grant_id, min(seconds, POLL_SECONDS)):
                break
            is_claimed = bool((await connection.execute(_IS_CLAIMED, {"id": grant_id})).all())
        if not is_pooled:
            await connection.execute(text(f"UNLISTEN {CHANNEL}"))


async def _is_woken(connection: AsyncConnection, grant_id: int, seconds: float) -> bool:
    """Wait some seconds for the wakeup of a grant."""
    driver = await driver_connection(connection)
    async for notification in driver.notifies(timeout=seconds):
        if notification.payload == str(grant_id):
            return True
    return False


async def mark_awaited(connection: AsyncConnection, grant_id: int, now: datetime) -> bool:
    """Request a wakeup at the end of the current claim.

    Returns:
        False if the grant is not claimed.
    """
    statement = text("UPDATE grants SET awaited = true WHERE id = :id AND claim_until > :now RETURNING id")
    return (await connection.execute(statement, {"id": grant_id, "now": now})).one_or_none() is not None
