from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from emulators.client import Emulation
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime


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
