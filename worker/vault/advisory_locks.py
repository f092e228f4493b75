"""Locks by name; Postgres releases them when their holder dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, select, text

from worker.vault.vault import Vault


@asynccontextmanager
async def lock(vault: Vault, name: str) -> AsyncIterator[None]:
    """Hold a lock by name; others wait."""
    async with vault.engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
        yield


@asynccontextmanager
async def try_lock(vault: Vault, name: str) -> AsyncIterator[bool]:
    """Hold a lock by name; yield False if another does."""
    values = {"name": name}
    async with vault.engine.connect() as shared:
        # Outside any transaction: a sync of hours must not look like a forgotten one.
        connection = await shared.execution_options(isolation_level="AUTOCOMMIT")
        attempt = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        if not (await connection.execute(attempt, values)).scalar_one():
            yield False
            return
        try:
            yield True
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), values)
