"""Stores refresh tokens from another store.

A batch is stored in one transaction. A grant that the vault renews is never replaced: the other store's token is older
(the promise «never older»).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.vault.db.sql import load
from worker.vault.db.tables import GrantRow
from worker.vault.grants.erase import load_tombstones
from worker.vault.grants.identities import identity_parameters
from worker.vault.vault import Vault

# The import verifies each stored grant by a renewal. If it was killed, the workers do so after this time.
VERIFY_WITHIN = timedelta(minutes=10)

_LOCK = load(__file__, "lock")
_ELSEWHERE = load(__file__, "elsewhere")
_LAST_ERROR = text("SELECT last_error FROM grants WHERE id = :id")
# Where the imported token is dead, Auth0's may be alive: after this the next sync ingests it.
_FORGET_OBSERVED = text("""
UPDATE grants SET observed_access = NULL, observed_refresh = NULL
WHERE id = :id AND state = 'reauthorization_required' AND imported_refresh = :imported
""")


@dataclass(frozen=True, slots=True)
class ImportedGrant:
    """A grant from another store.

    Attributes:
        access: the access token that came with it, if any.
        consented_at: when the user consented, None if unknown: by the time of the import at the latest.
        expires_at: of the access token; None if unknown.
    """

    key: GrantKey
    refresh: Secret
    access: Secret | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    consented_at: datetime | None = None


class ImportVerdict(StrEnum):
    """What an import decides about a grant."""

    NEW = "new"
    REVIVED = "revived"
    """The vault's own refresh token is dead or absent, or it is an administrator's that was never used."""
    PENDING = "pending"
    """The same token was stored by an earlier import that did not verify it."""
    PRESENT = "present"
    """The vault already had the same token."""
    ALIVE = "alive"
    """The vault renews this grant, so the other store's token is older."""
    REFUSED = "refused"
    """The same token was refused by its provider."""
    ERASED = "erased"
    """The user was erased: only a login brings the grant back."""
    REVOKED = "revoked"
    """The operator has revoked the grant: only a login brings it back."""
    BUSY = "busy"
    """The vault is renewing the grant at the moment."""
    ELSEWHERE = "elsewhere"
    """The vault has the identity under another user."""

    @property
    def is_stored(self) -> bool:
        """Whether the import stores its token."""
        return self in (ImportVerdict.NEW, ImportVerdict.REVIVED)


def judge(
    row: Mapping[str, Any] | None, *, imported: bytes, has_tombstone: bool, is_elsewhere: bool, now: datetime
) -> ImportVerdict:
    """Decide what to do with a grant from another store.

    Args:
        row: of the grant, if it is stored.
        imported: the fingerprint of the other store's refresh token.
        has_tombstone: the identity was erased.
        is_elsewhere: the identity is stored under another user.
    """
    if is_elsewhere:
        return ImportVerdict.ELSEWHERE
    if row is None or row["state"] == "erased":
        return ImportVerdict.ERASED if row or has_tombstone else ImportVerdict.NEW
    if row["state"] in ("active", "in_doubt"):
        return _judge_alive(row, imported)
    if row["reason"] == "revoked":
        return ImportVerdict.REVOKED
    if row["imported_refresh"] == imported and row["has_refresh"]:
        return ImportVerdict.REFUSED
    is_claimed = row["claim_until"] is not None and row["claim_until"] > now
    return ImportVerdict.BUSY if is_claimed else ImportVerdict.REVIVED


def _judge_alive(row: Mapping[str, Any], imported: bytes) -> ImportVerdict:
    if row["imported_refresh"] == imported and row["last_renewed_at"] is None:
        return ImportVerdict.PENDING
    if imported in (row["imported_refresh"], row["observed_refresh"]):
        return ImportVerdict.PRESENT
    # An import syncs the connections first, and with them Auth0's copies of admin tokens. Such a copy, if the vault has
    # never used it, may be older than the token that the other store has renewed since.
    is_untried = row["last_renewed_at"] is None and not row["attempts"] and row["claim_until"] is None
    is_auth0s_copy = row["user_id"] == "" and row["obtained_from"] == "auth0" and row["state"] == "active"
    return ImportVerdict.REVIVED if is_auth0s_copy and is_untried else ImportVerdict.ALIVE


async def store(
    vault: Vault, grants: Sequence[ImportedGrant], *, now: datetime, dry_run: bool = False
) -> list[tuple[ImportVerdict, int | None]]:
    """Store a batch, all or nothing.

    Args:
        grants: each key once, of connections that the vault has.
        dry_run: decide only, and store nothing.

    Returns:
        For each grant in order: the verdict, and the id of its row, if there is one.
    """
    found: list[tuple[ImportVerdict, int | None]] = []
    async with vault.engine.begin() as connection:
        rows = (
            await connection.execute(_LOCK, identity_parameters([grant.key for grant in grants]))
        ).mappings()
        stored = {_key(row): row for row in map(dict[str, Any], rows)}
        missing = [each.key for each in grants if each.key not in stored]
        tombstones = await load_tombstones(vault, missing)
        elsewhere = await _find_elsewhere(connection, missing)
        for grant in grants:
            row, imported = stored.get(grant.key), vault.fingerprints.of_secret(grant.refresh)
            verdict = judge(
                row, imported=imported, has_tombstone=grant.key in tombstones,
                is_elsewhere=grant.key in elsewhere, now=now,
            )  # fmt: skip
            row_id = None if row is None else int(row["id"])
            if verdict.is_stored and not dry_run:
                columns = _columns(vault, grant, row, imported, now)
                row_id = await _write(connection, grant.key, row_id, columns)
                verdict = verdict if row_id is not None else ImportVerdict.BUSY
            found.append((verdict, row_id))
    return found


async def read_last_error(vault: Vault, grant_id: int) -> str | None:
    """Return the code of a grant's last failure, if any."""
    rows = await vault.run(_LAST_ERROR, {"id": grant_id})
    return rows[0][0] if rows else None


async def forget_observed(vault: Vault, grant_id: int, refresh: Secret) -> None:
    """Allow Auth0's copy to replace a dead imported token."""
    await vault.run(_FORGET_OBSERVED, {"id": grant_id, "imported": vault.fingerprints.of_secret(refresh)})


async def _find_elsewhere(connection: AsyncConnection, keys: Sequence[GrantKey]) -> set[GrantKey]:
    """Return the keys whose identity another user has."""
    found = await connection.execute(_ELSEWHERE, identity_parameters(keys))
    return {GrantKey(*row) for row in found}


async def _write(
    connection: AsyncConnection, key: GrantKey, row_id: int | None, columns: dict[str, Any]
) -> int | None:
    """Write a row; None if a sync was faster."""
    if row_id is not None:
        await connection.execute(update(GrantRow).where(GrantRow.id == row_id).values(columns))
        return row_id
    names = {
        "tenant": key.tenant, "connection": key.connection, "user_id": key.user_id,
        "provider_user_id": key.provider_user_id, "obtained_from": "import",
    }  # fmt: skip
    statement = insert(GrantRow).values(names | columns).on_conflict_do_nothing().returning(GrantRow.id)
    return (await connection.execute(statement)).scalar_one_or_none()


def _columns(
    vault: Vault, grant: ImportedGrant, row: Mapping[str, Any] | None, imported: bytes, now: datetime
) -> dict[str, Any]:
    version = (row["refresh_version"] if row else 0) + 1
    columns: dict[str, Any] = {
        "state": "active", "reason": None, "reason_since": None, "in_doubt_since": None, "attempts": 0,
        "last_error": None, "missing_since": None, "withdrawn_at": None, "last_renewed_at": None, "refresh_expires_at": None,
        "consent_expires_at": None, "consent_is_counted": True, "consented_at": min(grant.consented_at or now, now), "claim_owner": None, "claimed_at": None, "claim_until": None,
        "imported_refresh": imported, "imported_at": now, "due_at": now + VERIFY_WITHIN,
        "refresh_ciphertext": vault.refresh.encrypt(
            EncryptionContext.of_grant(grant.key, "refresh", version), grant.refresh
        ),
        "refresh_version": version,
    }  # fmt: skip
    if grant.access is not None:
        access_version = (row["access_version"] if row else 0) + 1
        context = EncryptionContext.of_access_token(grant.key, access_version, grant.expires_at)
        columns |= {
            "access_ciphertext": vault.access.encrypt(context, grant.access),
            "access_version": access_version, "expires_at": grant.expires_at, "obtained_at": None,
            "obtained_from": "import",
        }  # fmt: skip
    if grant.scopes is not None:
        columns["scopes"] = list(grant.scopes)
    return columns


def _key(row: Mapping[str, Any]) -> GrantKey:
    return GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
