"""The Management API token that all workers of a tenant share, and locks that the database itself holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret
from worker.vault.db.database import Vault
from worker.vault.db.tables import ManagementTokenRow


def place_of_token(tenant: str) -> EncryptionContext:
    """Where a tenant's management token is sealed for."""
    # The column is called `ciphertext` by now; what is in the ciphertexts stays.
    return EncryptionContext("management_tokens", (tenant,), "sealed")


async def read(
    vault: Vault, tenant: str, minted_with: bytes
) -> tuple[Secret, datetime, frozenset[str] | None] | None:
    """Return the shared token with its end and scopes; None where none was minted with these credentials."""
    async with vault.engine.connect() as connection:
        row = (
            await connection.execute(
                select(
                    ManagementTokenRow.ciphertext, ManagementTokenRow.expires_at, ManagementTokenRow.scopes
                ).where(ManagementTokenRow.tenant == tenant, ManagementTokenRow.minted_with == minted_with)
            )
        ).one_or_none()
    if row is None:
        return None
    try:
        value = vault.refresh.decrypt(place_of_token(tenant), row.ciphertext)
    except CannotDecrypt:
        return None  # a new one is minted and takes its place
    return value, row.expires_at, None if row.scopes is None else frozenset(row.scopes)


async def write(
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
        "ciphertext": vault.refresh.encrypt(place_of_token(tenant), token),
        "expires_at": expires_at,
        "scopes": None if scopes is None else sorted(scopes),
    }
    statement = insert(ManagementTokenRow).values(tenant=tenant, **columns)
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(index_elements=[ManagementTokenRow.tenant], set_=columns)
        )


@asynccontextmanager
async def held(vault: Vault, name: str) -> AsyncIterator[None]:
    """Hold a lock by name; others wait. Postgres releases it when its holder dies."""
    async with vault.engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
        yield


@asynccontextmanager
async def held_alone(vault: Vault, name: str) -> AsyncIterator[bool]:
    """Hold a lock by name for as long as it takes, or yield False where another process holds it."""
    lock = {"name": name}
    async with vault.engine.connect() as shared:
        # Outside any transaction: a sync of hours must not look like a forgotten one.
        connection = await shared.execution_options(isolation_level="AUTOCOMMIT")
        take = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        if not (await connection.execute(take, lock)).scalar_one():
            yield False
            return
        try:
            yield True
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), lock)
