from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.pool import QueuePool

from emulators.client import Emulation
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.vault.db.engine import MAX_IDLE_CONNECTIONS
from worker.vault.vault import Vault


async def test_a_due_grant_is_renewed(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Callable[..., list[dict[str, Any]]]
) -> None:
    """What Auth0 shows is synced, and renewed when it is due."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_users("bitbucket", 3)
    runtime = await open_worker()
    report = await (await runtime.tenant_sync("default")).sync_all()
    assert report.ok
    assert report.stats.new == 3
    sql("UPDATE grants SET due_at = now()")
    outcomes = await runtime.engine.renew_due(runtime.tenants)
    assert outcomes == {Outcome.RENEWED: 3}
    assert tenant.double_spends() == 0


async def test_connections_that_were_needed_for_a_moment_are_closed(vault: Vault) -> None:
    """All connections that a process may have open at once; only a few stay open after it."""
    pool = vault.engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    opened = await asyncio.gather(*(vault.engine.connect() for _ in range(10)))
    assert pool.checkedout() == 10
    for connection in opened:
        await connection.close()
    assert (pool.checkedout(), pool.checkedin()) == (0, MAX_IDLE_CONNECTIONS)
