"""Behind PgBouncer in transaction mode: readers and workers keep no state in a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY
from tests.support.pgbouncer import PROGRAM, paused, pgbouncer
from tests.support.wait import until_async
from token_vault import TokenVault
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker.cli import main
from worker.renewal.outcome import Outcome
from worker.renewal.refresh_requests import RefreshRequests
from worker.runtime import open_runtime
from worker.settings import Settings
from worker.vault.db.errors import explained

Sql = Callable[..., list[dict[str, Any]]]

CONNECTION = "bitbucket"
USERS = 10
READS = 800
ADVISORY_LOCKS = (
    "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE locktype = 'advisory' AND datname = current_database()"
)

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


@pytest.fixture
def pooled(database_url: Secret, tmp_path: Path) -> Iterator[Secret]:
    """The vault behind a pooler with two sessions."""
    with pgbouncer(database_url, tmp_path / "pooler", size=2) as url:
        yield url


@pytest.mark.parametrize("direct", [False, True])
async def test_reads_syncs_and_renewals_through_a_pooler(
    pooled: Secret,
    database_url: Secret,
    tenant: Emulation,
    settings: Callable[[], Settings],
    sql: Sql,
    direct: bool,
) -> None:
    """Each is as right as without one, with a direct address for wakeups or without, and no session keeps a thing."""
    tenant.add_connection(CONNECTION, CONNECTION, CONNECTION)
    users = tenant.add_users(CONNECTION, USERS)
    direct_url = database_url if direct else None
    found = settings().model_copy(update={"database_url": pooled, "database_direct_url": direct_url})
    async with open_runtime(found) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        for _ in range(2):
            sql("UPDATE grants SET due_at = now(), last_renewed_at = NULL")
            assert (await runtime.engine.renew_due(runtime.tenants)).total() == USERS
        requests = RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants)
        carrying_out = asyncio.create_task(requests.run())
        with (
            TokenVault(pooled, [ACCESS_KEY], direct_url=direct_url) as reader,
            ThreadPoolExecutor(16) as threads,
        ):

            def read(number: int) -> bool:
                user = users[number % USERS]
                holder = tenant_holders[reader.user_token(user, CONNECTION).value]
                return bool(user.endswith(holder))

            tenant_holders = {
                tenant.live(user, CONNECTION)["access_token"]: user.partition("|")[2] for user in users
            }
            loop = asyncio.get_running_loop()
            assert all(await asyncio.gather(*(loop.run_in_executor(threads, read, n) for n in range(READS))))
            sql("UPDATE grants SET expires_at = now() - interval '1 s', obtained_at = now() - interval '1 h'")
            token = await loop.run_in_executor(
                threads, lambda: reader.user_token(users[0], CONNECTION, wait=60)
            )
            assert token.value == tenant.live(users[0], CONNECTION)["access_token"]
        requests.stop()
        await carrying_out
    assert tenant.double_spends() == 0
    assert sql(ADVISORY_LOCKS) == []
    assert sql("SELECT 1 FROM pg_prepared_statements") == []


async def test_a_paused_pooler_loses_no_answer(
    pooled: Secret,
    tenant: Emulation,
    settings: Callable[[], Settings],
    sql: Sql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that a silent pooler does not take is on disk, no more is sent, and it is stored once the pooler is back."""
    monkeypatch.setattr("worker.vault.db.engine.MAX_ANSWER_SECONDS", 0.5)
    tenant.add_connection(CONNECTION, CONNECTION, CONNECTION)
    [user] = tenant.add_users(CONNECTION, 1)
    hasty = Secret(f"{pooled.reveal()}{'&' if '?' in pooled.reveal() else '?'}connect_timeout=2")
    async with open_runtime(settings().model_copy(update={"database_url": hasty})) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        sql("UPDATE grants SET due_at = now()")
        tenant.fail_next("/idp/bitbucket", 1, "hang")
        renewing = asyncio.create_task(runtime.engine.renew_due(runtime.tenants))
        await until_async(lambda: len(tenant.ledger(user, CONNECTION)) > 1)
        with paused(tmp_path / "pooler"):
            tenant.release()
            await until_async(lambda: list(runtime.settings.spool.glob("[!.]*")))
            with pytest.raises(TemporarilyUnavailable, match="does not answer in time"):
                async with explained():
                    await runtime.vault.check_writable()
        assert await renewing == {Outcome.RENEWED: 1}
        assert list(runtime.settings.spool.glob("[!.]*")) == []
        sql("UPDATE grants SET due_at = now()")
        assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 1}
    assert tenant.double_spends() == 0


def test_doctor_sees_a_pooler_without_a_direct_address(
    pooled: Secret, environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the variable to set."""
    monkeypatch.setenv("DATABASE_URL", pooled.reveal())
    main(["doctor"])
    assert "DATABASE_DIRECT_URL" in capsys.readouterr().out
