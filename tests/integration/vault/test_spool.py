"""An answer that Postgres cannot take is never dropped."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as syntax
from psycopg.conninfo import conninfo_to_dict

from emulators.client import Emulation
from tests.support.database import at_database
from tests.support.wait import until_async
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.renewal import commit
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.vault.claims.spool import Spool

Sql = Callable[..., list[dict[str, Any]]]
USER = "bitbucket|{1}"
Open = Callable[[], Awaitable[Runtime]]


@contextmanager
def postgres_away(database_url: Secret) -> Iterator[None]:
    """Throw everybody out of the vault's database and let nobody in."""
    name = str(conninfo_to_dict(database_url.reveal())["dbname"])
    allow = syntax.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(at_database(database_url, "postgres").reveal(), autocommit=True) as connection:
        connection.execute(allow.format(syntax.Identifier(name), syntax.SQL("false")))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        try:
            yield
        finally:
            connection.execute(allow.format(syntax.Identifier(name), syntax.SQL("true")))


@contextmanager
def updates_refused(database_url: Secret, code: str) -> Iterator[None]:
    """Have Postgres refuse each new token of a grant with this SQLSTATE."""
    function = (
        "CREATE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = {}; END $$"
    )
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(syntax.SQL(function).format(syntax.Literal(code)))
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE OF refresh_ciphertext ON grants"
            " FOR EACH ROW EXECUTE FUNCTION refuse_update()"
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION refuse_update CASCADE")


@pytest.fixture
async def one_due(tenant: Emulation, open_worker: Open, sql: Sql) -> Runtime:
    """One due grant at a provider that rotates without grace, and holds its answer back."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_user(USER, [{"connection": "bitbucket"}])
    runtime = await open_worker()
    await (await runtime.tenant_sync("default")).sync_all()
    sql("UPDATE grants SET due_at = now()")
    tenant.fail_next("/idp/bitbucket", 1, "hang")
    return runtime


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an answer in the spool after half a second, as a worker does after half a minute or when it dies."""
    monkeypatch.setattr(commit, "COMMIT_RETRY_SECONDS", 0.5)


async def carried_out(tenant: Emulation) -> None:
    """Wait until the provider has rotated the pair; its answer is held back until ``release``."""
    await until_async(lambda: len(tenant.ledger(USER, "bitbucket")) > 1)


def files(runtime: Runtime) -> list[Path]:
    folder = runtime.settings.spool
    return [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


async def test_an_answer_that_postgres_cannot_take_is_kept_and_then_stored(
    one_due: Runtime, tenant: Emulation, database_url: Secret
) -> None:
    """While Postgres is away the new pair is on disk, sealed and for its owner alone; back, it is stored once."""
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        await until_async(lambda: bool(files(one_due)))
        (spooled,) = files(one_due)
        assert spooled.stat().st_mode & 0o777 == 0o600
        live = tenant.live(USER, "bitbucket")
        content = spooled.read_bytes()
        assert str(live["refresh_token"]).encode() not in content
        assert str(live["access_token"]).encode() not in content
    assert await renewing == {Outcome.RENEWED: 1}
    assert files(one_due) == []
    await assert_next_renewal_succeeds(one_due, tenant, database_url)


async def test_a_worker_that_dies_with_a_spooled_answer_loses_nothing(
    impatient: None, one_due: Runtime, tenant: Emulation, open_worker: Open, database_url: Secret
) -> None:
    """The next worker stores what its predecessor had spooled, before it asks any provider for anything."""
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        await until_async(lambda: bool(files(one_due)))
        assert await renewing == {Outcome.SPOOLED: 1}
    successor = await open_worker()
    await successor.engine.renew_due(successor.tenants)
    assert files(successor) == []
    await assert_next_renewal_succeeds(successor, tenant, database_url)


async def test_an_answer_whose_commit_hangs_is_on_disk_meanwhile(
    one_due: Runtime, tenant: Emulation, database_url: Secret
) -> None:
    """A commit that neither comes nor fails, as on a dead line, is no reason to have the answer in memory alone."""
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with psycopg.connect(database_url.reveal()) as blocker:
        blocker.execute("SELECT 1 FROM grants FOR UPDATE")
        tenant.release()
        await until_async(lambda: bool(files(one_due)))
        assert not renewing.done()
    assert await renewing == {Outcome.RENEWED: 1}
    assert files(one_due) == []
    await assert_next_renewal_succeeds(one_due, tenant, database_url)


async def test_an_answer_whose_commit_is_cancelled_is_on_disk(
    monkeypatch: pytest.MonkeyPatch,
    one_due: Runtime,
    tenant: Emulation,
    open_worker: Open,
    database_url: Secret,
) -> None:
    """A process that is told to end twice cancels what it has under way: the answer waits for the next one."""
    monkeypatch.setattr(commit, "SLOW_COMMIT_SECONDS", 60)
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with (
        psycopg.connect(database_url.reveal(), autocommit=True) as looking,
        psycopg.connect(database_url.reveal()) as blocker,
    ):
        blocker.execute("SELECT 1 FROM grants FOR UPDATE")
        tenant.release()
        waits = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE '%WITH stored%'"
        )
        await until_async(lambda: bool(looking.execute(waits).fetchall()))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    assert len(files(one_due)) == 1
    successor = await open_worker()
    await successor.engine.renew_due(successor.tenants)
    assert files(successor) == []
    await assert_next_renewal_succeeds(successor, tenant, database_url)


async def test_no_request_is_sent_while_the_spool_cannot_be_written(
    one_due: Runtime, tenant: Emulation
) -> None:
    """Without a place for the answer nothing is asked, and the operator is told which folder it is."""
    one_due.settings.spool.parent.mkdir(parents=True, exist_ok=True)
    one_due.settings.spool.write_text("a file where the folder should be")
    with pytest.raises(ConfigurationError, match=r"spool .* cannot be written"):
        await one_due.engine.renew_due(one_due.tenants)
    assert tenant.calls("/idp") == {}


async def test_no_request_is_sent_while_postgres_is_known_to_be_away(
    impatient: None, one_due: Runtime, tenant: Emulation, database_url: Secret, sql: Sql
) -> None:
    """After an answer that could not be committed no other grant is renewed until Postgres answers again."""
    tenant.add_user("bitbucket|{2}", [{"connection": "bitbucket"}])
    await (await one_due.tenant_sync("default")).sync_all()
    sql("UPDATE grants SET due_at = now() - interval '1 s' * (2 - id)")
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        assert await renewing == {Outcome.SPOOLED: 1}
        assert sum(tenant.calls("/idp/bitbucket").values()) == 1
    assert await one_due.engine.renew_due(one_due.tenants) == {Outcome.RENEWED: 1}
    assert sum(tenant.calls("/idp/bitbucket").values()) == 2
    assert files(one_due) == []


async def test_an_answer_that_no_disk_takes_either_is_offered_until_postgres_takes_it(
    impatient: None,
    one_due: Runtime,
    tenant: Emulation,
    database_url: Secret,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Postgres away and the disk full an answer lives on in memory, beyond all patience, and is committed."""
    tries = []

    def full(*_: object, **__: object) -> Path:
        tries.append(time.monotonic())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "save", full)
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        await until_async(lambda: len(tries) > 3 and tries[-1] - tries[0] > commit.COMMIT_RETRY_SECONDS)
        assert not renewing.done()
    assert await renewing == {Outcome.RENEWED: 1}
    await assert_next_renewal_succeeds(one_due, tenant, database_url)


async def test_an_older_answer_in_the_spool_does_not_replace_a_newer_login(
    impatient: None, one_due: Runtime, tenant: Emulation, open_worker: Open, database_url: Secret
) -> None:
    """A spooled pair whose refresh token a login has replaced meanwhile is dropped: the newer pair stays."""
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        await until_async(lambda: bool(files(one_due)))
        assert await renewing == {Outcome.SPOOLED: 1}
    tenant.login(USER)
    successor = await open_worker()
    await (await successor.tenant_sync("default")).sync_user(USER)
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        before = connection.execute("SELECT refresh_ciphertext, access_ciphertext FROM grants").fetchall()
        await successor.engine.renew_due(successor.tenants)
        assert (
            connection.execute("SELECT refresh_ciphertext, access_ciphertext FROM grants").fetchall()
            == before
        )
    assert files(successor) == []


@pytest.mark.parametrize(("code", "is_rejected"), [("42501", False), ("42P01", False), ("23514", True)])
async def test_only_an_answer_that_cannot_be_stored_is_set_aside(
    impatient: None, one_due: Runtime, tenant: Emulation, database_url: Secret, code: str, is_rejected: bool
) -> None:
    """A right or table that is missing keeps the answer in the spool; putting it right stores the answer."""
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with updates_refused(database_url, code):
        tenant.release()
        assert await renewing == {Outcome.SPOOLED: 1}
        assert await one_due.engine._committer.replay() == 0
        assert [path.suffix for path in files(one_due)] == [".rejected" if is_rejected else ""]
    assert await one_due.engine._committer.replay() == (0 if is_rejected else 1)


async def assert_next_renewal_succeeds(runtime: Runtime, tenant: Emulation, database_url: Secret) -> None:
    """The stored refresh token is the live one: the strict provider takes it."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute("UPDATE grants SET due_at = now()")
    assert await runtime.engine.renew_due(runtime.tenants) == {Outcome.RENEWED: 1}
    assert tenant.double_spends() == 0


@pytest.mark.parametrize("left", ["whole", "half", "just now"])
async def test_a_worker_that_dies_before_a_file_has_its_name(
    one_due: Runtime,
    tenant: Emulation,
    open_worker: Open,
    database_url: Secret,
    impatient: None,
    left: str,
) -> None:
    """An answer that is whole on disk is stored as any other; half of one, or one being written, is left alone."""
    running = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    with postgres_away(database_url):
        tenant.release()
        await running
    [kept] = files(one_due)
    unfinished = kept.rename(kept.with_name(f".{kept.name}.new"))
    if left == "half":
        unfinished.write_bytes(unfinished.read_bytes()[:-40])
    if left != "just now":
        os.utime(unfinished, (time.time() - 120,) * 2)
    await (await open_worker()).engine._committer.replay()
    assert unfinished.exists() == (left != "whole")
    with psycopg.connect(database_url.reveal()) as connection:
        [(version,)] = connection.execute("SELECT refresh_version FROM grants").fetchall()
    assert version == (2 if left == "whole" else 1)


async def test_nothing_more_is_sent_after_a_failed_commit(
    impatient: None, one_due: Runtime, tenant: Emulation, database_url: Secret
) -> None:
    """A request whose turn comes while Postgres is away waits until it is back, or its claim has no time left."""
    committer = one_due.engine._committer
    renewing = asyncio.create_task(one_due.engine.renew_due(one_due.tenants))
    await carried_out(tenant)
    looks = 0

    def has_time() -> bool:
        nonlocal looks
        looks += 1
        return looks < 3

    with postgres_away(database_url):
        tenant.release()
        assert await renewing == {Outcome.SPOOLED: 1}
        await committer.wait_for_commit_capacity(has_time)
        assert looks == 4  # two looks at Postgres, the end of the time, and once more at the next step
    looks = 0
    await committer.wait_for_commit_capacity(lambda: True)
    await one_due.engine.renew_due(one_due.tenants)
    assert files(one_due) == []
