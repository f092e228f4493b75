"""Moves grants to the users their identities were linked to.

The identity keeps its tokens, but belongs to another user. If it were stored as a new grant, that would have the refresh
token from Auth0's copy, which the vault has rotated long ago: the first renewal would make the provider revoke all
tokens of the grant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, or_, select, update

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.grant_key import GrantKey
from worker.vault import outbox
from worker.vault.db.tables import GrantRow
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)


async def relink(
    vault: Vault, moves: Sequence[tuple[int, GrantKey, datetime | None]], *, now: datetime
) -> set[GrantKey]:
    """Move grants to the users that Auth0 now shows.

    Args:
        moves: the id of each grant, its new key, and the ``updated_at`` of its new user.
        now: the database's time.

    Returns:
        The keys that were moved. A claimed grant is left to the next sync, as the answer under way will be encrypted for
        the earlier user. A grant that Auth0 has shown under a third user since is not moved.
    """
    return {
        key for grant_id, key, updated_at in moves if await _relink_one(vault, grant_id, key, updated_at, now)
    }


async def _relink_one(
    vault: Vault, grant_id: int, key: GrantKey, updated_at: datetime | None, now: datetime
) -> bool:
    newer: ColumnElement[bool] = GrantRow.observed_updated_at.is_(None)
    if updated_at is not None:
        newer |= GrantRow.observed_updated_at <= updated_at
    # An expired claim counts as none: on a dead grant that was tried by force, nobody takes it over.
    unused = or_(GrantRow.claim_until.is_(None), GrantRow.claim_until <= now)
    unclaimed = select(GrantRow).where(GrantRow.id == grant_id, unused, newer)
    try:
        async with vault.engine.begin() as connection:
            row = (await connection.execute(unclaimed.with_for_update())).mappings().one_or_none()
            if row is None:
                return False
            old = replace(key, user_id=row["user_id"])
            columns = {
                "user_id": key.user_id,
                "missing_since": None,  # the identity was found: under this user
                "withdrawn_at": None,
                **_reencrypt(vault, old, key, dict(row)),
            }
            await connection.execute(update(GrantRow).where(GrantRow.id == grant_id).values(columns))
            await outbox.reassign(connection, old, key.user_id)
    except CannotDecrypt as error:
        log.error("grant.relink_failed", grant=grant_id, error=str(error))  # noqa: TRY400  # the message says it all
        return False
    log.info("grant.relinked", grant=grant_id, connection=key.connection)
    return True


def _reencrypt(vault: Vault, old: GrantKey, new: GrantKey, row: Mapping[str, Any]) -> dict[str, bytes | None]:
    """Encrypt a grant's tokens for its new user.

    The user is part of the encryption context.
    """

    def access(key: GrantKey) -> EncryptionContext:
        return EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])

    def refresh(key: GrantKey) -> EncryptionContext:
        return EncryptionContext.of_grant(key, "refresh", row["refresh_version"])

    columns = {
        "access_ciphertext": (vault.access, access),
        "extra_ciphertext": (vault.access, EncryptionContext.of_extra),
        "refresh_ciphertext": (vault.refresh, refresh),
    }
    return {
        name: row[name] and ring.encrypt(context(new), ring.decrypt(context(old), row[name]))
        for name, (ring, context) in columns.items()
    }
