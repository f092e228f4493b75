"""Wakeups: hints that a grant's row has changed.

They are sent to those who wait for the grant, after the commit, in a statement of their own: any role can fill Postgres' queue of notifications, and
then each transaction that notifies fails. Who misses a wakeup looks at the row by himself a little later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from token_vault.read_model import CHANNEL
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# A hint is not worth more of the sender's time.
WAKE_SECONDS = 1.0

_NOTIFY = text("SELECT pg_notify(:channel, CAST(id AS text)) FROM unnest(CAST(:ids AS bigint[])) AS id")


async def wake(vault: Vault, grant_ids: Collection[int]) -> None:
    """Wake whoever waits for these grants; never fails."""
    if not grant_ids:
        return
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            await vault.run(_NOTIFY, {"channel": CHANNEL, "ids": list(grant_ids)})
    except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        log.warning("wakeup.failed", error=type(error).__name__)
