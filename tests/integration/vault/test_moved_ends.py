"""Who may write rows cannot make a token last longer, nor bring back what was replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.rows import row_of
from token_vault import TokenVault
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import WrongContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.token_pair import TokenPair
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.rotation.rotate import rotate
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]
KEY = GrantKey("default", "custom", "oauth2|1", "1")


@pytest.fixture
async def filled(vault: Vault) -> Vault:
    """A vault with one token that lives an hour."""
    now = await vault.now()
    pair = TokenPair(
        Secret("the-token"), Secret("the-refresh-token"), now.replace(year=now.year + 1), None, None
    )
    await ingest.ingest(vault, [IncomingGrant(KEY, "oauth2", pair, None, None)], now=now)
    return vault


@pytest.fixture
def reader(database_url: Secret) -> Iterator[TokenVault]:
    with TokenVault(database_url, [ACCESS_KEY]) as opened:
        yield opened


@pytest.mark.parametrize(
    "end", ["'2099-01-01'", "expires_at + interval '1 microsecond'", "NULL"], ids=["2099", "later", "none"]
)
async def test_a_reader_refuses_a_token_whose_end_was_moved(
    filled: Vault, reader: TokenVault, sql: Sql, end: str
) -> None:
    """A token whose row says another end than its ciphertext is an error, never a token."""
    assert reader.user_token(KEY.user_id, KEY.connection).value == "the-token"
    # Of a state in which a reader would serve it without asking for a renewal.
    sql(f"UPDATE grants SET expires_at = {end}, obtained_from = 'renewal'")
    with pytest.raises(WrongContext, match="out of place"):
        reader.user_token(KEY.user_id, KEY.connection)


async def test_a_rotation_of_keys_binds_older_ends(
    filled: Vault, reader: TokenVault, database_url: Secret, sql: Sql
) -> None:
    """A token from before ends were bound is served; once keys are rotated its end cannot be moved any more."""
    row = row_of(sql, KEY)
    before = filled.access.encrypt(
        EncryptionContext.of_grant(KEY, "access", row["access_version"]), Secret("the-token")
    )
    sql("UPDATE grants SET access_ciphertext = %s", before)
    assert reader.user_token(KEY.user_id, KEY.connection).value == "the-token"
    rings = {"access": KeyRing("access", [ACCESS_KEY]), "refresh": KeyRing("refresh", [REFRESH_KEY])}
    stats = rotate(database_url, rings, None)  # type: ignore[arg-type]
    assert sum(each.reencrypted for each in stats) == 1
    assert reader.user_token(KEY.user_id, KEY.connection).value == "the-token"
    sql("UPDATE grants SET expires_at = '2099-01-01'")
    with pytest.raises(WrongContext):
        reader.user_token(KEY.user_id, KEY.connection)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE connections SET options_version = options_version - 1",
        "UPDATE grants SET access_version = access_version - 1",
        "UPDATE grants SET refresh_version = refresh_version - 1",
    ],
)
async def test_versions_only_rise(filled: Vault, sql: Sql, statement: str) -> None:
    """Neither a connection's options nor a grant's tokens are replaced by older ones."""
    sql("UPDATE connections SET options_version = 2")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="may not go backwards"):
        sql(statement)
