"""Waits until another worker's claim has ended."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, cast

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.read_model import CHANNEL
from worker.vault.vault import Vault


async def wait_for_release(vault: Vault, grant_id: int, *, deadline: float) -> None:
    """Wait until another worker's claim has ended, or the deadline.

    Args:
        deadline: on the event loop's clock. The wait holds a connection of its own.
    """
    async with vault.statement() as connection:
        # Listening comes first: a claim that ends right after the row is marked is heard of too.
        await connection.execute(text(f"LISTEN {CHANNEL}"))
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        if await mark_awaited(connection, grant_id, now):
            raw = await connection.get_raw_connection()
            driver = cast("psycopg.AsyncConnection[Any]", raw.driver_connection)
            seconds = deadline - asyncio.get_running_loop().time()
            async for notification in driver.notifies(timeout=max(0.0, seconds)):
                if notification.payload == str(grant_id):
                    break
        await connection.execute(text(f"UNLISTEN {CHANNEL}"))


async def mark_awaited(connection: AsyncConnection, grant_id: int, now: datetime) -> bool:
    """Ask for a wakeup when the live claim ends.

    False if there is none.
    """
    statement = text("UPDATE grants SET awaited = true WHERE id = :id AND claim_until > :now RETURNING id")
    return (await connection.execute(statement, {"id": grant_id, "now": now})).one_or_none() is not None
