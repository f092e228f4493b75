"""A copy of the vault sends nothing until the operator adopts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from emulators.client import Emulation
from tests.support.database import at_database, copied_by_dump, copied_by_template, end_connections
from tests.support.keys import ACCESS_KEY
from token_vault import TokenVault
from token_vault.secret import Secret
from worker import cli
from worker.erasure.mass_revocation import MassRevocation
from worker.runtime import Runtime, open_runtime
from worker.settings import Settings
from worker.vault.location import CopiedVault
from worker.vault.revocations.revocations import Scope

Copier = Callable[[Secret, str], AbstractContextManager[Secret]]

COPIERS: list[Copier] = [copied_by_template, copied_by_dump]


@asynccontextmanager
async def started(settings: Settings, url: Secret) -> AsyncIterator[Runtime]:
    async with open_runtime(settings.model_copy(update={"database_url": url}), connections=3) as runtime:
        yield runtime


@pytest.fixture
async def filled(tenant: Emulation, settings: Callable[[], Settings], database_url: Secret) -> Settings:
    """A vault with a grant that is due, which nobody has open."""
    tenant.configure_provider("custom")
    tenant.add_connection("custom", "oauth2", "custom")
    tenant.add_users("custom", 1)
    loaded = settings()
    async with started(loaded, database_url) as runtime:
        assert (await (await runtime.tenant_sync("default")).sync_all()).ok
        await runtime.vault.run(text("UPDATE grants SET due_at = now()"))
    return loaded


async def the_user(runtime: Runtime) -> str:
    ((user_id,),) = await runtime.vault.run(text("SELECT user_id FROM grants"))
    return str(user_id)


async def refused_everywhere(runtime: Runtime) -> None:
    """Try all that would send something."""
    with pytest.raises(CopiedVault, match="token-vault adopt"):
        await runtime.engine.renew_due(runtime.tenants)
    with pytest.raises(CopiedVault):
        await runtime.on_demand.refresh(
            tenants=runtime.tenants,
            user_id=await the_user(runtime),
            connection="custom",
            force=True,
            by_operator=True,
        )
    with pytest.raises(CopiedVault):
        await runtime.tenant_sync("default")
    with pytest.raises(CopiedVault):
        await runtime.eraser("default")
    everything = Scope(runtime.tenants)
    with pytest.raises(CopiedVault):
        await MassRevocation(runtime.vault, runtime.connections, runtime.http, everything).run()
    with pytest.raises(CopiedVault):
        await runtime.dispatcher.deliver_due(runtime.tenants)


@pytest.mark.parametrize("copier", COPIERS)
async def test_a_copy_reads_and_sends_nothing(
    filled: Settings, tenant: Emulation, database_url: Secret, copier: Copier
) -> None:
    """A copy hands out the tokens it has, and neither renews, syncs, revokes nor delivers."""
    with copier(database_url, "copy") as copy:
        before = len(tenant.call_log(""))
        async with started(filled, copy) as runtime:
            await refused_everywhere(runtime)
            user = await the_user(runtime)
        with TokenVault(copy, [ACCESS_KEY]) as reader:
            assert reader.user_token(user, "custom").value
        assert len(tenant.call_log("")) == before
        async with started(filled, database_url) as first:
            assert sum((await first.engine.renew_due(first.tenants)).values()) == 1


@pytest.mark.parametrize("copier", COPIERS)
async def test_an_adopted_copy_goes_on(
    filled: Settings, database_url: Secret, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``adopt`` the copy is the vault, and ``status`` and ``doctor`` have nothing to say of it."""
    with copier(database_url, "copy") as copy:
        async with started(filled, copy) as runtime:
            assert (await runtime.vault.location_difference()) is not None
        monkeypatch.setenv("DATABASE_URL", copy.reveal())
        assert await _command("adopt") == 0
        async with started(filled, copy) as runtime:
            assert sum((await runtime.engine.renew_due(runtime.tenants)).values()) == 1


async def _command(*arguments: str) -> int:
    return await asyncio.to_thread(cli.main, list(arguments))


async def test_status_and_doctor_tell_of_a_copy(
    filled: Settings,
    database_url: Secret,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both say plainly that this is a copy, and what to do."""
    with copied_by_template(database_url, "copy") as copy:
        monkeypatch.setenv("DATABASE_URL", copy.reveal())
        assert await _command("status") == 0
        assert "token-vault adopt" in capsys.readouterr().err
        assert await _command("doctor") == 1
        assert "location" in capsys.readouterr().out


async def test_a_hundred_workers_on_copies_make_no_call(
    filled: Settings, tenant: Emulation, database_url: Secret
) -> None:
    """A hundred workers that start on copies of a live tenant's vault send it nothing."""
    before = len(tenant.call_log(""))
    for copier in COPIERS:
        with copier(database_url, "copy") as copy:
            for _ in range(50):
                async with started(filled, copy) as runtime:
                    await refused_everywhere(runtime)
    assert len(tenant.call_log("")) == before


@contextmanager
def _change(url: Secret, statement: str) -> Iterator[None]:
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        connection.execute(statement.encode())
        yield


@pytest.mark.parametrize(
    "statement",
    [
        # The same database of another cluster, whose transaction ids happen to be the same.
        "UPDATE vault_location SET system_identifier = '1', recorded_by = mod(pg_current_xact_id()::text::bigint, 4294967296)",
        # A row that another transaction wrote, as a restore does, where the cluster cannot be told.
        "UPDATE vault_location SET system_identifier = NULL",
        "DELETE FROM vault_location",
    ],
)
async def test_each_difference_alone_makes_a_copy(
    filled: Settings, database_url: Secret, statement: str
) -> None:
    """The cluster, the row's transaction and the row itself are each enough to tell a copy."""
    async with started(filled, database_url) as runtime:
        await runtime.vault.check_location()
        with _change(database_url, statement), pytest.raises(CopiedVault):
            await runtime.vault.check_location()


async def test_without_the_clusters_identifier(filled: Settings, database_url: Secret) -> None:
    """Where the cluster's identifier is withheld, the vault is at home and its copies are not."""
    withhold = (
        "ALTER FUNCTION cluster_identifier() RENAME TO known_identifier;"
        "CREATE FUNCTION cluster_identifier() RETURNS text LANGUAGE sql AS 'SELECT NULL'"
    )
    with psycopg.connect(database_url.reveal(), autocommit=True) as owner:
        owner.execute(withhold.encode())
    try:
        async with started(filled, database_url) as runtime:
            await runtime.vault.check_location()
        for copier in COPIERS:
            with copier(database_url, "copy") as copy:
                async with started(filled, copy) as runtime:
                    await refused_everywhere(runtime)
    finally:
        with psycopg.connect(database_url.reveal(), autocommit=True) as owner:
            owner.execute("DROP FUNCTION cluster_identifier()")
            owner.execute("ALTER FUNCTION known_identifier() RENAME TO cluster_identifier")


async def test_a_renamed_database_is_the_vault(filled: Settings, database_url: Secret) -> None:
    """The name of the database says nothing of where it is."""
    name = urlsplit(database_url.reveal()).path[1:]
    with psycopg.connect(at_database(database_url, "postgres").reveal(), autocommit=True) as server:
        end_connections(database_url)
        server.execute(f'ALTER DATABASE "{name}" RENAME TO renamed'.encode())
        try:
            async with started(filled, at_database(database_url, "renamed")) as runtime:
                await runtime.vault.check_location()
        finally:
            server.execute(f'ALTER DATABASE renamed RENAME TO "{name}"'.encode())
