"""The syncs that are due, of all tenants.

Postgres knows what is due, so that two beats do no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.contextvars import bind_contextvars

from token_vault.errors import VaultError
from worker.runtime import Runtime
from worker.sync.tenant_sync import TenantSync
from worker.vault import outbox
from worker.vault.db.errors import explain
from worker.vault.status import renewal_counts
from worker.vault.sync_state import runs

log = structlog.get_logger(__name__)

# A full scan is cut into tasks of this length, so that a worker can be stopped between two of them.
SCAN_SLICE_SECONDS = 45.0
# Wait after a failed full sync; doubled after each further failure.
FIRST_FULL_SYNC_RETRY_SECONDS, MAX_FULL_SYNC_RETRY_SECONDS = 60.0, 600.0

T = TypeVar("T")


async def for_each_tenant(
    runtime: Runtime, work: Callable[[Runtime, str], Coroutine[Any, Any, T]]
) -> list[T | None]:
    """Do something for all tenants, several at a time.

    One tenant's failure does not stop another.
    """

    async def one(tenant: str) -> T | None:
        try:
            bind_contextvars(tenant=tenant)  # of this tenant's own asyncio task
            async with runtime.tenant_slots[work.__name__]:
                return await work(runtime, tenant)
        except VaultError as error:  # the next tick tries again
            log.warning("sync.postponed", tenant=tenant, error=str(error))
        except (DBAPIError, PoolTimeout) as error:
            log.warning("sync.postponed", tenant=tenant, error=str(explain(error)))
        return None

    return await asyncio.gather(*map(one, runtime.tenants))


async def sync_if_due(runtime: Runtime, tenant: str) -> bool:
    """Run the syncs that are due; return whether more remains."""
    schedule, sync, more = runtime.settings.schedule, await runtime.tenant_sync(tenant), False
    if await _is_full_sync_due(runtime, tenant, sync):
        more = not (await sync.sync_all(budget=SCAN_SLICE_SECONDS)).finished
    # Also between two slices of a full scan: it may take days, and its grants are renewed with these connections.
    if await _has_elapsed(
        runtime, await runs.last_started(runtime.vault, tenant, "connections"), schedule.connections
    ):
        await sync.sync_connections()
    return more


async def _is_full_sync_due(runtime: Runtime, tenant: str, sync: TenantSync) -> bool:
    """Whether a full sync is under way, or due again.

    After a failure it is due only once its wait is over.
    """
    if not await sync.is_in_progress():
        complete = await runs.last_complete(runtime.vault, tenant, "all")
        if not await _has_elapsed(runtime, complete and complete[0], runtime.settings.schedule.full):
            return False
    failures, failed_at = await runs.failures(runtime.vault, tenant, "all")
    wait = min(FIRST_FULL_SYNC_RETRY_SECONDS * 2 ** max(0, failures - 1), MAX_FULL_SYNC_RETRY_SECONDS)
    return await _has_elapsed(runtime, failed_at, wait)


async def _has_elapsed(runtime: Runtime, moment: datetime | None, seconds: float) -> bool:
    return moment is None or await runtime.vault.now() - moment >= timedelta(seconds=seconds)


async def sync_changes(runtime: Runtime, tenant: str) -> None:
    """Ingest a tenant's changes; erase what is gone for good."""
    began = await runs.last_started(runtime.vault, tenant, "changes")
    if not await _has_elapsed(runtime, began, runtime.settings.schedule.changes / 2):
        return  # two beats are running, or ticks have piled up
    now = await runtime.vault.now()
    await runs.delete_old(runtime.vault, now=now)
    await renewal_counts.delete_old(runtime.vault, now=now)
    await outbox.delete_old(runtime.vault, before=now - timedelta(seconds=runtime.settings.events.keep))
    await (await runtime.tenant_sync(tenant)).sync_changes(budget=SCAN_SLICE_SECONDS)
    await (await runtime.eraser(tenant)).sweep()
