"""Carries out refresh requests: woken by Postgres, and by polling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from token_vault.errors import TokenNotFound, VaultError
from worker.renewal.on_demand import OnDemand, Refreshed
from worker.vault.refresh_requests import queue
from worker.vault.refresh_requests.queue import RefreshRequest
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Requests carried out at a time by one process: fewer than its connections to Postgres.
MAX_REFRESHES = 16
# How often to look for requests where no wakeup comes: those whose least interval is over, and those of a worker
# that died.
SWEEP_SECONDS = 1.0
# How often to delete requests that are over.
CLEANUP_SECONDS = 10.0

_DATABASE_FAILURES = (SQLAlchemyError, psycopg.Error, OSError)


class RefreshRequests:
    """Claims refresh requests and carries them out.

    Any number of processes may do so.

    Args:
        vault: where they are.
        on_demand: refreshes a grant.
        tenants: whose grants.
    """

    def __init__(self, vault: Vault, on_demand: OnDemand, tenants: Sequence[str]) -> None:
        self._vault = vault
        self._on_demand = on_demand
        self._tenants = tenants
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._failing = False
        self._running: set[asyncio.Task[None]] = set()
        self._next_cleanup = 0.0

    async def run(self) -> None:
        """Carry out requests until ``stop``; then finish those begun."""
        listening = asyncio.create_task(self._listen())
        try:
            while not self._stopping:
                self._wakeup.clear()
                await self._claim()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._wakeup.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, *self._running, return_exceptions=True)

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._wakeup.set()

    async def _listen(self) -> None:
        while True:
            with suppress(*_DATABASE_FAILURES):  # the next claim tells of it
                await queue.listen(self._vault, self._wakeup.set)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _claim(self) -> None:
        capacity = MAX_REFRESHES - len(self._running)
        if capacity <= 0:
            return
        try:
            for request in await queue.claim(self._vault, self._tenants, limit=capacity):
                task = asyncio.create_task(self._carry_out(request))
                self._running.add(task)
                task.add_done_callback(self._ended)
            await self._clean_up()
        except _DATABASE_FAILURES as error:
            if not self._failing:  # said once, and not every second of an outage
                log.warning("refresh_request.claim_failed", error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False

    async def _clean_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_cleanup:
            self._next_cleanup = now + CLEANUP_SECONDS
            await queue.delete_over(self._vault)

    async def _carry_out(self, request: RefreshRequest) -> None:
        try:
            await self._refresh(request)
            await queue.finish(self._vault, request)
        except (VaultError, *_DATABASE_FAILURES) as error:
            # Its claim ends by itself, and another try begins.
            log.warning("refresh_request.failed", grant=request.grant_id, error=type(error).__name__)

    async def _refresh(self, request: RefreshRequest) -> Refreshed | None:
        try:
            return await self._on_demand.refresh_grant(
                request.grant_id,
                min_ttl=request.min_ttl or None,
                rejected_version=request.rejected_version,
                target=request.target,
            )
        except TokenNotFound:  # erased meanwhile
            return None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wakeup.set()  # there is capacity again
        if not task.cancelled() and (error := task.exception()):
            log.error("refresh_request.crashed", exc_info=error)
