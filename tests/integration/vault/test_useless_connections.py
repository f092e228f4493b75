"""Connections that are open and of no use are dropped with their pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker.vault.db.errors import explain
from worker.vault.db.revisions import revisions
from worker.vault.vault import Vault, open_vault

Sql = Callable[..., list[dict[str, Any]]]

_PIDS = text("SELECT pg_backend_pid()")


async def _fill_pool(vault: Vault) -> set[int]:
    """Open two connections, and leave them idle; return their process ids."""
    async with vault.engine.connect() as first, vault.engine.connect() as second:
        return {(await each.execute(_PIDS)).scalar_one() for each in (first, second)}


async def test_a_server_that_never_answers_is_given_up(
    database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement fails as silent in time, and later ones go over new connections."""
    monkeypatch.setattr("worker.vault.db.engine.MAX_ANSWER_SECONDS", 0.5)
    async with open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY], connections=2) as vault:
        before = await _fill_pool(vault)
        async with await psycopg.AsyncConnection.connect(database_url.reveal()) as other:
            await other.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DBAPIError) as silent:
                await vault.run(text("SELECT count(*) FROM grants"))
        assert "does not answer in time" in str(explain(silent.value))
        assert await vault.run(text("SELECT count(*) FROM grants")) == [(0,)]
        assert not before & await _fill_pool(vault)


def test_a_look_at_the_revision_has_an_end(database_url: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness does not keep a thread for a server that is silent."""
    monkeypatch.setattr("worker.vault.db.revisions.MAX_ANSWER_SECONDS", 0.5)
    with psycopg.connect(database_url.reveal()) as other:
        other.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TemporarilyUnavailable, match="in time"):
            revisions(database_url)


async def test_connections_to_a_demoted_primary_are_dropped(database_url: Secret, sql: Sql) -> None:
    """A pool of open connections on which nothing can be written is made anew as a whole."""
    [found] = sql("SELECT current_database() AS name")
    async with open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY], connections=2) as vault:
        sql(f"ALTER DATABASE {found['name']} SET default_transaction_read_only = on")
        await vault.engine.dispose()
        before = await _fill_pool(vault)
        assert await vault.is_read_only()
        sql("SET default_transaction_read_only = off")
        sql(f"ALTER DATABASE {found['name']} RESET default_transaction_read_only")
        # The open ones keep what they began with, as after a failover. Nobody has to wait for another tick.
        await vault.check_writable()
        assert not before & await _fill_pool(vault)
        assert not await vault.is_read_only()
