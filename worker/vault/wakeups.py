"""Wakeups: hints that a grant's row has changed.

They are sent after the commit, in a separate statement: any role can fill Postgres' queue of notifications, and then
every transaction that notifies fails. Whoever misses a wakeup polls the row a little later.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from token_vault.read_model import CHANNEL
from worker.vault.db.engine import driver_connection
from worker.vault.vault import Database, Vault

log = structlog.get_logger(__name__)

# The longest that sending a hint may take.
WAKE_SECONDS = 1.0

# How often to look for work without a wakeup: for what has become due, and claims of dead workers.
SWEEP_SECONDS = 1.0
# How often to delete finished rows.
CLEANUP_SECONDS = 10.0

_NOTIFY = text("SELECT pg_notify(:channel, CAST(id AS text)) FROM unnest(CAST(:ids AS bigint[])) AS id")


async def wake(vault: Vault, grant_ids: Collection[int]) -> None:
    """Wake all who wait for these grants; never fails."""
    if not grant_ids:
        return
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            await vault.run(_NOTIFY, {"channel": CHANNEL, "ids": list(grant_ids)})
    except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        log.warning("wakeup.failed", error=type(error).__name__)


_ANNOUNCE = text("SELECT pg_notify(:channel, '') WHERE pg_notification_queue_usage() < 0.5")


async def announce(database: Database, channel: str) -> None:
    """Wake the workers of a queue; never fails.

    Without it, they look at the queue a little later.
    """
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            await database.run(_ANNOUNCE, {"channel": channel})
    except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        log.warning("wakeup.failed", error=type(error).__name__)


async def listen(vault: Vault, channel: str, wake: Callable[[], None]) -> NoReturn:
    """Call ``wake`` at every notification of a channel.

    Anybody may send one, so its payload is not read.

    Raises:
        psycopg.Error, SQLAlchemyError, OSError: the connection is lost.
    """
    async with vault.session() as connection:
        driver = await driver_connection(connection)
        if driver.is_pooled:  # a pooler does not pass on wakeups; the caller polls as well
            await connection.close()
            await asyncio.Event().wait()
        try:
            await driver.execute(f"LISTEN {channel}")
            wake()  # for work from before
            while True:
                async for _ in driver.notifies():
                    wake()
        finally:
            await connection.invalidate()  # it still listens, so others must not use it


# The errors of listening and polling while Postgres is away.
DATABASE_FAILURES = (SQLAlchemyError, psycopg.Error, OSError)


class WakeupLoop(ABC):
    """Does the work of a queue in Postgres, on wakeups.

    It polls as well, as wakeups may get lost. Any number of processes may run it.

    Args:
        vault: holds the queue.
        channel: announces new work.
    """

    def __init__(self, vault: Vault, channel: str) -> None:
        self._vault = vault
        self._channel = channel
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._failing = False
        self._running: set[asyncio.Task[None]] = set()
        self._next_cleanup = 0.0

    async def run(self) -> None:
        """Work until ``stop``, then finish the work under way."""
        listening = asyncio.create_task(self._listen())
        try:
            while not self._stopping:
                self._wakeup.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._wakeup.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, *self._running, return_exceptions=True)

    def stop(self) -> None:
        """Claim no more work."""
        self._stopping = True
        self._wakeup.set()

    @abstractmethod
    async def _claim(self) -> None:
        """Claim due work, and start it with ``_begin``."""

    @abstractmethod
    async def _clean_up(self) -> None:
        """Delete finished rows."""

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _listen(self) -> None:
        while True:
            with suppress(*DATABASE_FAILURES):  # the next claim logs it
                await listen(self._vault, self._channel, self._wakeup.set)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _look(self) -> None:
        try:
            await self._claim()
            now = asyncio.get_running_loop().time()
            if now >= self._next_cleanup:
                self._next_cleanup = now + CLEANUP_SECONDS
                await self._clean_up()
        except DATABASE_FAILURES as error:
            if not self._failing:  # logged once, not every second of an outage
                log.warning("queue.claim_failed", channel=self._channel, error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wakeup.set()  # there is capacity again
        if not task.cancelled() and (error := task.exception()):
            log.error("queue.work_crashed", channel=self._channel, exc_info=error)
