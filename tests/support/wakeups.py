"""Listens to what is told of ends of claims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from token_vault.read_model import CHANNEL
from token_vault.secret import Secret


@asynccontextmanager
async def listening(url: Secret) -> AsyncIterator[Callable[[], list[str]]]:
    """Collect the wakeups; all that were sent before the end are there after it."""
    connection = await psycopg.AsyncConnection.connect(url.reveal(), autocommit=True)
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        told: list[str] = []
        connection.add_notify_handler(lambda notification: told.append(notification.payload))

        def heard() -> list[str]:
            return told

        yield heard
        await connection.execute("SELECT 1")
