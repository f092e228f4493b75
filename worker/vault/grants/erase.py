"""Erases grants, and keeps them erased by tombstones.

A tombstone is the grant's own row, emptied: it has no ciphertext and no user, and a fingerprint instead of the
identity's id. By that, and by the fingerprints of the tokens that Auth0 showed, an erased identity is recognised when
Auth0 still shows it: a list that lags behind a deletion does not bring it back, but a new login does.
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

# All grants of the user, so that if two processes erase the last two, one of them knows that its was the last.
_LOCK_USERS_GRANTS = text("""
SELECT id FROM grants
WHERE tenant = :tenant AND user_id = :user_id AND user_id <> '' AND state <> 'erased' ORDER BY id FOR UPDATE
""")

# If an identity was erased, came back and is erased again, only the newer tombstone is kept.
_DROP_OLDER = text("""
DELETE FROM grants
WHERE tenant = :tenant AND connection = :connection AND provider_user_id = :name AND state = 'erased'
""")

# The claim is removed as well, so that an answer that arrives now is not stored.
_BURY = load(__file__, "bury")

# Tokens that were to be revoked, with the ids of their user.
_DROP_REVOCATIONS = text("DELETE FROM revocations WHERE grant_id = :id")

_TOMBSTONES = text("""
SELECT tenant, connection, provider_user_id, observed_access, observed_refresh, observed_updated_at FROM grants
JOIN unnest(CAST(:tenants AS text[]), CAST(:connections AS text[]), CAST(:names AS text[]))
    AS asked(tenant, connection, provider_user_id) USING (tenant, connection, provider_user_id)
WHERE state = 'erased'
""")

_DELETE_OLD = text("DELETE FROM grants WHERE state = 'erased' AND user_id <> '' AND reason_since < :before")


_LOCK_CONNECTION = text("""
SELECT FROM connections WHERE tenant = :tenant AND name = :name AND missing_since IS NOT NULL FOR UPDATE
""")

_DROP_ADMIN = text("""
DELETE FROM grants WHERE tenant = :tenant AND connection = :name AND user_id = '' RETURNING id
""")

# Grants of its users, also linked ones, may outlive the connection: while they exist, they are renewed with its client.
_EMPTY_CONNECTION = text("""
UPDATE connections c SET options_ciphertext = NULL, auth0_id = NULL
WHERE tenant = :tenant AND name = :name AND NOT EXISTS (
    SELECT FROM grants g WHERE g.tenant = c.tenant AND g.connection = c.name AND g.state <> 'erased')
""")


def _name(vault: Vault, key: GrantKey) -> str:
    """Return the name of an identity in its tombstone.

    It does not contain the user, so linking the account does not change it.
    """
    return f"~{vault.fingerprints.of(key.tenant, key.connection, key.provider_user_id).hex()}"


class ErasureResult(StrEnum):
    """The result of an erasure."""

    NOTHING = "nothing"
    """The grant is not stored, or no longer under this user."""
    ONE = "one"
    LAST = "last"
    """It was the user's last grant."""


async def erase(
    vault: Vault, connection: AsyncConnection, grant_id: int, key: GrantKey, *, reason: str, now: datetime
) -> ErasureResult:
    """Overwrite a user's grant with a tombstone.

    Runs in the caller's transaction; after its commit the caller wakes waiting readers.

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

    The client stays while a user's grant needs it. Nothing is erased if Auth0 has the connection again. Runs in the
    caller's transaction.

    Returns:
        The id of the admin grant, if there was one; after the commit the caller wakes its readers.
    """
    values = {"tenant": tenant, "name": name}
    if (await connection.execute(_LOCK_CONNECTION, values)).first() is None:
        return []
    erased = list((await connection.execute(_DROP_ADMIN, values)).scalars())
    await connection.execute(_EMPTY_CONNECTION, values)
    return erased


async def load_tombstones(vault: Vault, keys: Sequence[GrantKey]) -> dict[GrantKey, Mapping[str, Any]]:
    """Return what Auth0 had shown of erased identities.

    They are found whichever user they had.
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
    """Delete tombstones from before a time."""
    await vault.run(_DELETE_OLD, {"before": before})
