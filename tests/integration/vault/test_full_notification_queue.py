"""Any role can fill Postgres' queue of notifications: nothing that is to be stored depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.reader_roles import connect, reader_roles
from tests.support.wait import WAIT_SECONDS
from token_vault.grant_key import GrantKey
from token_vault.read_model import REQUEST_REFRESH
from token_vault.secret import Secret
from worker.embedded import private_home
from worker.embedded.postgres import Postgres
from worker.embedded.server import Access
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.db.migrate import migrate
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.vault import Vault, open_vault

HOUR = timedelta(hours=1)

_IDS = text("SELECT id FROM grants")
_VERSIONS = text("SELECT access_version, refresh_version FROM grants WHERE claim_owner IS NULL")
_FREE = text("SELECT last_error FROM grants WHERE claim_owner IS NULL")
_REQUESTS = text("SELECT grant_id FROM refresh_requests")


class SmallQueue(Postgres):
    """A Postgres whose queue of notifications has the least size, half a megabyte instead of eight gigabytes."""

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres."""
        return [*super().arguments(access), "-c", "max_notify_queue_pages=64"]


@pytest.fixture(scope="module")
def small_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secret]:
    """A migrated vault on such a Postgres."""
    with SmallQueue(private_home(tmp_path_factory.mktemp("postgres")), durable=False).running() as (url, _):
        migrate(url)
        yield url


@pytest.fixture
async def vault(small_queue: Secret) -> AsyncIterator[Vault]:
    """The open vault with a due grant."""
    async with open_vault(small_queue, [ACCESS_KEY], [REFRESH_KEY]) as opened:
        with psycopg.connect(small_queue.reveal(), autocommit=True) as connection:
            connection.execute("TRUNCATE grants, refresh_requests CASCADE")
        now = await opened.now()
        pair = TokenPair(Secret("access"), Secret("refresh"), now - HOUR)
        shown = IncomingGrant(
            GrantKey("default", "c", "c|1", "1"), "oauth2", pair, updated_at=now, issued_at=now
        )
        await ingest.ingest(opened, [shown], now=now)
        yield opened


@contextmanager
def full(url: Secret) -> Iterator[None]:
    """Fill the queue: a listener that reads nothing keeps all that others send."""
    with connect(url) as deaf, connect(url) as sender:
        deaf.execute("LISTEN noise")
        deaf.execute("BEGIN")
        deaf.execute("SELECT 1")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):  # noqa: PT012  # one of many is the last
            while True:
                sender.execute("SELECT pg_notify('noise', repeat(gen_random_uuid()::text, 200))")
        yield


async def claim_it(vault: Vault) -> Claim:
    """Claim the grant, and have somebody wait for it."""
    now = await vault.now()
    [(grant_id,)] = await vault.run(_IDS)
    claim = await claims.claim_one(vault, grant_id, owner=uuid4(), now=now, until=now + HOUR)
    assert claim is not None
    async with vault.statement() as connection:
        assert await claims.mark_awaited(connection, claim.id, now)
    return claim


async def test_a_new_pair_is_committed(vault: Vault, small_queue: Secret) -> None:
    """A pair that somebody waits for is stored, although he cannot be woken."""
    claim = await claim_it(vault)
    with full(small_queue):
        now = await vault.now()
        pair = TokenPair(Secret("renewed"), Secret("rotated"), now + HOUR)
        assert await claims.store_pair(vault, claim, pair, obtained_at=now, due_at=now + HOUR)
    assert await vault.run(_VERSIONS) == [(claim.access_version + 1, claim.refresh_version + 1)]


async def test_a_claim_is_released(vault: Vault, small_queue: Secret) -> None:
    """An outcome without a pair is stored too."""
    claim = await claim_it(vault)
    with full(small_queue):
        assert await claims.release(
            vault, claim, due_at=await vault.now(), last_error="temporarily_unavailable"
        )
    assert await vault.run(_FREE) == [("temporarily_unavailable",)]


async def test_a_login_is_ingested(vault: Vault, small_queue: Secret) -> None:
    """What a login brought is stored, although somebody waits for the grant."""
    claim = await claim_it(vault)
    with full(small_queue):
        now = await vault.now()
        pair = TokenPair(Secret("login"), Secret("login"), now + HOUR)
        await ingest.ingest(
            vault, [IncomingGrant(claim.key, "oauth2", pair, updated_at=now, issued_at=now)], now=now
        )
    assert await vault.run(_VERSIONS) == [(claim.access_version + 1, claim.refresh_version + 1)]


async def test_a_refresh_is_requested(vault: Vault, small_queue: Secret) -> None:
    """A reader's request is stored; workers find it without being woken."""
    [(grant_id,)] = await vault.run(_IDS)
    with reader_roles(small_queue) as new_role, connect(new_role()) as reader, full(small_queue):
        reader.execute(REQUEST_REFRESH, (grant_id, None, 30))
    assert await vault.run(_REQUESTS) == [(grant_id,)]


async def test_who_is_not_woken_looks(vault: Vault, small_queue: Secret) -> None:
    """A worker that waits for another's call sees its end without a wakeup."""
    claim = await claim_it(vault)
    waiting = asyncio.create_task(
        claims.wait_for_release(vault, claim.id, deadline=asyncio.get_running_loop().time() + WAIT_SECONDS)
    )
    with full(small_queue):
        now = await vault.now()
        pair = TokenPair(Secret("renewed"), Secret("rotated"), now + HOUR)
        assert await claims.store_pair(vault, claim, pair, obtained_at=now, due_at=now + HOUR)
        async with asyncio.timeout(WAIT_SECONDS / 2):
            await waiting
