"""The user that the documentation and the examples speak of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from emulators.client import Emulation
from worker.runtime import Runtime

USER, CONNECTION = "google-oauth2|1111", "google-oauth2"


async def sync_user(
    tenant: Emulation, open_worker: Callable[[], Awaitable[Runtime]], sql: Callable[..., list[dict[str, Any]]]
) -> None:
    """Add a user to the tenant, sync, and renew."""
    tenant.add_connection(CONNECTION, CONNECTION, "google")
    tenant.add_user(USER, [{"connection": CONNECTION}])
    runtime = await open_worker()
    await (await runtime.tenant_sync("default")).sync_all()
    sql("UPDATE grants SET due_at = now()")
    await runtime.engine.renew_due(runtime.tenants)
