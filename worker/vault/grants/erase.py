"""Erases grants, and keeps them erased by tombstones.

A tombstone is the grant's own row, emptied: no ciphertext, no user, and the identity's id under the vault's
fingerprint key. What Auth0 goes on showing of it is recognized by that, and by the fingerprints of the tokens it
showed: a list that lags behind a deletion brings nothing back, a new login does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.vault import Vault

# All of the user's, so that of two who erase the last two of them, one knows that it was the last.
_LOCK_USERS_GRANTS = text("""
SELECT id FROM grants
WHERE tenant = :tenant AND user_id = :user_id AND user_id <> '' AND state <> 'erased' ORDER BY id FOR UPDATE
""")

# An identity that was erased before, came back and is erased again keeps the newer tombstone.
_DROP_OLDER = text("""
DELETE FROM grants
WHERE tenant = :tenant AND connection = :connection AND provider_user_id = :name AND state = 'erased'
""")

# The claim goes too: an answer that comes now finds nothing that it could be stored to.
_BURY = load(__file__, "bury")

# Tokens that were to be revoked, and whose they were.
_DROP_REVOCATIONS = text("DELETE FROM revocations WHERE grant_id = :id")

_TOMBSTONES = text("""
SELECT tenant, connection, provider_user_id, observed_access, observed_refresh, observed_updated_at FROM grants
JOIN unnest(CAST(:tenants AS text[]), CAST(:connections AS text[]), CAST(:names AS text[]))
    AS asked(tenant, connection, provider_user_id) USING (tenant, connection, provider_user_id)
WHERE state = 'erased'
""")

_FORGET = text("DELETE FROM grants WHERE state = 'erased' AND user_id <> '' AND reason_since < :before")


_LOCK_CONNECTION = text("""
SELECT FROM connections WHERE tenant = :tenant AND name = :name AND missing_since IS NOT NULL FOR UPDATE
""")

_DROP_ADMIN = text("""
DELETE FROM grants WHERE tenant = :tenant AND connection = :name AND user_id = '' RETURNING id
""")

# Its users' grants, linked ones among them, may outlive it: they are renewed with its client as long as they exist.
_EMPTY_CONNECTION = text("""
UPDATE connections c SET options_ciphertext = NULL, auth0_id = NULL
WHERE tenant = :tenant AND name = :name AND NOT EXISTS (
    SELECT FROM grants g WHERE g.tenant = c.tenant AND g.connection = c.name AND g.state <> 'erased')
""")


def _name(vault: Vault, key: GrantKey) -> str:
    """Return what stands for an identity in its tombstone.

    Linking the account does not change it.
    """
    return f"~{vault.fingerprints.of(key.tenant, key.connection, key.provider_user_id).hex()}"


class ErasureResult(StrEnum):
    """What came of an erasure."""

    NOTHING = "nothing"
    """It is not stored, or not under this user any more."""
    ONE = "one"
    LAST = "last"
    """Nothing of the user is stored any more."""


async def erase(
    vault: Vault, connection: AsyncConnection, grant_id: int, key: GrantKey, *, reason: str, now: datetime
) -> ErasureResult:
    """Overwrite a user's grant with a tombstone.

    Runs in the caller's transaction; afterwards the caller wakes who waits.

    Args:
        key: the grant's key, as the caller read it.
        reason: ``deleted``, ``unlinked`` or ``forgotten``.
        now: the database's time.
    """
    whose = {"tenant": key.tenant, "user_id": key.user_id}
    grant_ids = set((await connection.execute(_LOCK_USERS_GRANTS, whose)).scalars())
    if grant_id not in grant_ids:
        return ErasureResult.NOTHING
    values = {
        "id": grant_id, "name": _name(vault, key), "reason": reason, "now": now, "tenant": key.tenant,
        "connection": key.connection,
    }  # fmt: skip
    await connection.execute(_DROP_OLDER, values)
    await connection.execute(_BURY, values)
    await connection.execute(_DROP_REVOCATIONS, values)
    return ErasureResult.LAST if len(grant_ids) == 1 else ErasureResult.ONE


async def erase_connection(connection: AsyncConnection, tenant: str, name: str) -> list[int]:
    """Erase a connection's admin grant, and its unused client.

    The client stays while a user's grant needs it. Runs in the caller's transaction.

    Returns:
        The id of the admin grant, if there was one; the caller wakes who waits for it. Nothing is done for a
        connection that Auth0 has again.
    """
    values = {"tenant": tenant, "name": name}
    if (await connection.execute(_LOCK_CONNECTION, values)).first() is None:
        return []
    erased = list((await connection.execute(_DROP_ADMIN, values)).scalars())
    await connection.execute(_EMPTY_CONNECTION, values)
    return erased


async def load_tombstones(vault: Vault, keys: Sequence[GrantKey]) -> dict[GrantKey, Mapping[str, Any]]:
    """Return what Auth0 had shown of erased identities.

    They are found whoever was their user.
    """
    names = {
        (key.tenant, key.connection, _name(vault, key)): key for key in keys if not key.is_admin
    }  # fmt: skip
    if not names:
        return {}
    values = {
        "tenants": [tenant for tenant, _, _ in names],
        "connections": [connection for _, connection, _ in names],
        "names": [name for _, _, name in names],
    }
    return {
        names[tenant, connection, name]: {
            "observed_access": access, "observed_refresh": refresh, "observed_updated_at": updated_at,
        }
        for tenant, connection, name, access, refresh, updated_at in await vault.run(_TOMBSTONES, values)
    }  # fmt: skip


async def delete_old_tombstones(vault: Vault, *, before: datetime) -> None:
    """Delete tombstones that are older."""
    await vault.run(_FORGET, {"before": before})
