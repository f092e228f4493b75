"""Readers and their refreshes do without Redis: its being away, from the start or in the middle, costs them nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support.backends import listens
from tests.support.processes import site
from tests.support.wait import until
from token_vault.secret import Secret
from worker import embedded
from worker.embedded import Servers
from worker.vault.changed_users import queue
from worker.vault.refresh_requests.queue import CHANNEL
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]

CONNECTION = "custom"
NOWHERE = Secret("redis://127.0.0.1:1/0")


async def test_a_user_whom_a_hook_names_is_synced_while_redis_is_away(
    tenant: Emulation, vault: Vault, sql: Sql, database_url: Secret, tmp_path: Path
) -> None:
    """A worker that cannot reach its broker syncs changed users all the same."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    (user,) = tenant.add_users(CONNECTION, 1)
    with site(Servers(database_url, NOWHERE), tenant, tmp_path, schedule="") as made:
        worker = made.worker("sync", "sync", ready=False)
        await queue.record(vault, "default", [user])
        until(lambda: sql("SELECT 1 FROM grants WHERE user_id = %s", user))
        assert worker.running


@pytest.mark.parametrize("away", ["from the start", "in the middle"])
async def test_a_refresh_while_redis_is_away(
    tenant: Emulation,
    open_worker: Callable[[], Any],
    sql: Sql,
    database_url: Secret,
    tmp_path: Path,
    away: str,
) -> None:
    """A stale token is refreshed on demand by a worker that cannot reach its broker, for a reader that knows none."""
    tenant.add_connection(CONNECTION, "oauth2", "custom")
    (user,) = tenant.add_users(CONNECTION, 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    sql("UPDATE grants SET expires_at = now() - interval '1 s', obtained_at = now() - interval '1 h'")
    before = tenant.live(user, CONNECTION)["access_token"]
    with ExitStack() as redis:
        redis_url = NOWHERE
        if away == "in the middle":
            home = tmp_path / "redis"
            redis_url = redis.enter_context(embedded.servers(home, postgres=False, durable=False)).redis_url
        with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="") as made:
            worker = made.worker("interactive", "interactive", ready=away == "in the middle")
            redis.close()
            until(lambda: listens(sql, CHANNEL))
            made.environment.pop("REDIS_URL")
            (token,) = made.read({"user_id": user, "connection": CONNECTION, "wait": 30})
            assert worker.running
    assert token != before
    assert token == tenant.live(user, CONNECTION)["access_token"]
