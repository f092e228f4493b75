"""A worker whose threads are all held by syncs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulators.client import Emulation
from tests.support.processes import site
from tests.support.wait import until
from token_vault.secret import Secret
from worker.embedded import Servers

Sql = Callable[..., list[dict[str, Any]]]


async def test_renewals_go_on_beside_stuck_syncs(
    tenant: Emulation,
    open_worker: Callable[[], Any],
    sql: Sql,
    database_url: Secret,
    redis_url: Secret,
    tmp_path: Path,
) -> None:
    """A tenant that never answers holds both threads and the whole queue; what is due is renewed all the same."""
    tenant.add_connection("custom", "oauth2", "custom")
    (user,) = tenant.add_users("custom", 1)
    assert (await (await (await open_worker()).tenant_sync("default")).sync_all()).ok
    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="renew = 1") as made:
        worker = made.worker("bulk", "renew,sync", threads=2)
        tenant.fail_next("/api/v2/users", 50, "hang")
        made.send(*[("worker.sync_user", "sync", {"user_id": user})] * 8)
        until(lambda: worker.log.count("received") == 2, "both threads have a sync")
        made.beat().says("is starting")
        sql("UPDATE grants SET due_at = now()")
        until(lambda: sql("SELECT 1 FROM grants WHERE last_renewed_at IS NOT NULL AND due_at > now()"))
        assert worker.running
        assert "sync.finished" not in worker.log
        assert "succeeded" not in worker.log
