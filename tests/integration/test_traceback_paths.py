"""The same as in tests/unit/test_tracebacks.py, where a database is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError

from tests.support.keys import ACCESS_KEY
from tests.support.readers import KINDS, OpenReader, Rows, Sql, opening
from tests.support.tracebacks import rendered
from token_vault.errors import CannotDecrypt
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.vault import Vault

CANARY = "canary-Zk3vN8qLw0aB1cD2eF3gH4iJ5kL6mN7o"
USER, CONNECTION = "oauth2|u1", "custom"


@pytest.fixture(params=KINDS)
async def open_reader(request: pytest.FixtureRequest, database_url: Secret) -> AsyncIterator[OpenReader]:
    """Make readers of each kind."""
    async with opening(request.param, database_url) as make:
        yield make


async def test_a_swapped_row_shows_no_other_token(vault: Vault, sql: Sql, open_reader: OpenReader) -> None:
    """A reader that finds another user's ciphertext raises without it, in threads and in asyncio."""
    rows = Rows(vault, sql)
    mine = await rows.add(value=f"{CANARY}-mine")
    other = await rows.add("oauth2|u2", subject="u2", value=f"{CANARY}-other")
    sql(
        "UPDATE grants SET access_ciphertext = (SELECT access_ciphertext FROM grants WHERE id = %s) WHERE id = %s",
        other, mine,
    )  # fmt: skip
    with pytest.raises(CannotDecrypt) as failed:
        await open_reader().user_token(USER, CONNECTION)
    assert CANARY not in rendered(failed.value)


async def test_a_missing_key_shows_no_key(vault: Vault, sql: Sql, open_reader: OpenReader) -> None:
    """A reader with other keys names them by their hashes alone."""
    await Rows(vault, sql).add(value=CANARY)
    key = KeyRing.generate()
    with pytest.raises(CannotDecrypt) as failed:
        await open_reader(keys=[key]).user_token(USER, CONNECTION)
    shown = rendered(failed.value)
    assert not any(secret in shown for secret in (CANARY, key.reveal(), ACCESS_KEY.reveal()))


async def test_a_commit_that_fails_shows_no_pair(vault: Vault, sql: Sql) -> None:
    """An answer that Postgres refuses is in no frame, SQLAlchemy's and the driver's among them."""
    grant = await Rows(vault, sql).add(value=f"{CANARY}0", refresh=f"{CANARY}1")
    now = await vault.now()
    claim = await claims.claim_one(vault, grant, owner=uuid4(), now=now, until=now + timedelta(minutes=1))
    assert claim is not None
    assert claims.decrypt_refresh_token(vault, claim) == Secret(f"{CANARY}1")
    pair = TokenPair(Secret(f"{CANARY}2"), Secret(f"{CANARY}3"), scopes=("a\0",))
    with pytest.raises(DBAPIError) as failed:
        await claims.store_pair(vault, claim, pair, obtained_at=now, due_at=now)
    assert CANARY not in rendered(failed.value)
    moved = replace(claim, key=replace(claim.key, user_id="oauth2|u9"))
    with pytest.raises(CannotDecrypt) as swapped:
        claims.decrypt_refresh_token(vault, moved)
    assert CANARY not in rendered(swapped.value)
