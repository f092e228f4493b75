"""Rows of the vault, read and decrypted from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.fernet import Fernet

from tests.support.keys import ACCESS_KEY
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]


def row_of(sql: Sql, key: GrantKey) -> dict[str, Any]:
    """The row of a grant."""
    [row] = sql(
        "SELECT * FROM grants WHERE tenant = %s AND connection = %s AND user_id = %s AND provider_user_id = %s",
        key.tenant, key.connection, key.user_id, key.provider_user_id,
    )  # fmt: skip
    return row


def opened(vault: Vault, row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Decrypt a grant's access and refresh token."""
    key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
    found: list[str | None] = []
    for ring in (vault.access, vault.refresh):
        sealed = row[f"{ring.name}_ciphertext"]
        place = EncryptionContext.of_grant(key, ring.name, row[f"{ring.name}_version"])
        if ring is vault.access:
            place = EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])
        found.append(None if sealed is None else ring.decrypt(place, sealed).reveal())
    return found[0], found[1]


def encrypt_for_new_ends(sql: Sql) -> None:
    """Make the access tokens' ciphertexts fit ends that a test has written into the rows."""
    fernet = Fernet(ACCESS_KEY.reveal())
    for row in sql("SELECT * FROM grants WHERE access_ciphertext IS NOT NULL"):
        key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
        place = EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])
        content = fernet.decrypt(row["access_ciphertext"]).partition(b"\n")[2]
        fresh = fernet.encrypt(place.header() + content)
        sql(
            # Not over the pair that a running worker may have stored in between.
            "UPDATE grants SET access_ciphertext = %s WHERE id = %s AND access_ciphertext = %s",
            fresh, row["id"], row["access_ciphertext"],
        )  # fmt: skip
