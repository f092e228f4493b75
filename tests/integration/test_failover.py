"""Postgres fails over: work goes on with the new primary, and nothing that a provider answered is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY
from tests.support.postgres_pair import PostgresPair, postgres_pair
from tests.support.processes import REPOSITORY, Site, site
from tests.support.wait import until
from token_vault import AsyncTokenVault
from token_vault.secret import Secret
from worker.embedded import Servers
from worker.vault.db.migrate import migrate

CONNECTION = "bitbucket"
USERS = 4


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresPair]:
    """A migrated primary with its standby."""
    with postgres_pair(tmp_path_factory.mktemp("pair")) as made:
        migrate(made.url)
        yield made


@pytest.fixture
def here(pair: PostgresPair, redis_url: Secret, tenant: Emulation, tmp_path: Path) -> Iterator[Site]:
    """Beat and workers on the address that is moved, with a provider that rotates."""
    tenant.add_connection(CONNECTION, CONNECTION, CONNECTION)
    tenant.add_users(CONNECTION, USERS)
    schedule = "renew = 1\nchanges = 60\nconnections = 60\nfull = 60"
    with site(Servers(pair.url, redis_url), tenant, tmp_path, schedule=schedule) as made:
        made.beat()
        made.worker("worker", "interactive,renew,sync")
        until(lambda: len(rows(pair.primary_url, "SELECT id FROM grants")) == USERS, "users are synced")
        yield made


def rows(url: Secret, statement: str) -> list[dict[str, Any]]:
    """Ask one of the servers itself."""
    with psycopg.connect(url.reveal(), autocommit=True, row_factory=dict_row) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description is not None else []


def status(here: Site) -> dict[str, Any]:
    """What `token-vault status` says."""
    said = subprocess.run(
        [sys.executable, "-m", "worker.cli", "status", "--json"], env=here.environment, cwd=REPOSITORY,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(said.stdout))


async def test_a_failover_and_back(
    pair: PostgresPair, here: Site, tenant: Emulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was answered before the failover is stored after it; workers, readers and listeners find each new primary."""
    user = rows(pair.primary_url, "SELECT user_id FROM grants ORDER BY id")[0]["user_id"]
    spool = Path(here.environment["TOKEN_VAULT_HOME"]) / "spool"
    async with AsyncTokenVault(pair.url, [ACCESS_KEY]) as reader:
        assert (await reader.user_token(user, CONNECTION)).value
        tenant.fail_next("/idp/bitbucket", USERS, "delay:2")
        rows(pair.primary_url, "UPDATE grants SET due_at = now()")
        until(lambda: tenant.calls("/idp/bitbucket"), "the provider was asked")
        pair.primary.set_read_only(True)
        until(
            lambda: len([each for each in spool.glob("*") if not each.name.startswith(".")]),
            "an answer is on disk",
        )
        worker = here.processes[-1]
        worker.says("database.connections_dropped")
        assert "read_only" in worker.log
        assert status(here)["read_only"] is True

        pair.fail_over()
        until(lambda: not list(spool.glob("[!.]*")), "the answers are stored")
        assert status(here)["read_only"] is False
        rows(pair.standby_url, "UPDATE grants SET due_at = now(), last_renewed_at = NULL")
        until(
            lambda: rows(pair.standby_url, "SELECT 1 FROM grants HAVING count(last_renewed_at) = 4"),
            "renewal is back",
        )
        rows(pair.standby_url, "UPDATE grants SET expires_at = now() - interval '1 s'")
        token = await reader.user_token(user, CONNECTION, wait=60)
        with pair.failed_back(tmp_path_factory.mktemp("again")) as url:
            rows(url, "UPDATE grants SET due_at = now(), last_renewed_at = NULL")
            until(
                lambda: rows(url, "SELECT 1 FROM grants HAVING count(last_renewed_at) = 4"),
                "renewal is back at the old place",
            )
            rows(
                url,
                "UPDATE grants SET expires_at = now() - interval '1 s', obtained_at = now() - interval '1 h'",
            )
            newer = await reader.user_token(user, CONNECTION, wait=60)
            assert newer.value != token.value
            holder = tenant.holder(newer.value)
            states = rows(url, "SELECT DISTINCT state FROM token_status")
    assert holder is not None
    assert holder["live"]
    assert tenant.double_spends() == 0
    assert states == [{"state": "active"}]
