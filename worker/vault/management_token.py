"""A tenant's Management API token, which all workers share."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret
from worker.vault.db.tables import ManagementTokenRow
from worker.vault.vault import Vault


def encryption_context(tenant: str) -> EncryptionContext:
    """Return the context of a tenant's management token."""
    # The context is part of each ciphertext, so its field is still `sealed`, the column's name in version 0.1.
    return EncryptionContext("management_tokens", (tenant,), "sealed")


async def load(
    vault: Vault, tenant: str, minted_with: bytes
) -> tuple[Secret, datetime, frozenset[str] | None] | None:
    """Return the shared token with its end and scopes.

    Args:
        minted_with: a fingerprint of the credentials; a token minted with others is not returned.
    """
    statement = select(
        ManagementTokenRow.ciphertext, ManagementTokenRow.expires_at, ManagementTokenRow.scopes
    ).where(ManagementTokenRow.tenant == tenant, ManagementTokenRow.minted_with == minted_with)
    async with vault.engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    try:
        value = vault.refresh.decrypt(encryption_context(tenant), row.ciphertext)
    except CannotDecrypt:
        return None  # the caller mints a new one, which replaces it
    return value, row.expires_at, None if row.scopes is None else frozenset(row.scopes)


async def store(
    vault: Vault,
    tenant: str,
    minted_with: bytes,
    *,
    token: Secret,
    expires_at: datetime,
    scopes: frozenset[str] | None,
) -> None:
    """Share a token, encrypted."""
    columns = {
        "minted_with": minted_with,
        "ciphertext": vault.refresh.encrypt(encryption_context(tenant), token),
        "expires_at": expires_at,
        "scopes": None if scopes is None else sorted(scopes),
    }
    statement = insert(ManagementTokenRow).values(tenant=tenant, **columns)
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(index_elements=[ManagementTokenRow.tenant], set_=columns)
        )
