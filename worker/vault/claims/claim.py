"""The claim on a grant: an owner and a deadline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from token_vault.token_target import DEFAULT_TARGET, TokenTarget
from worker.vault import schedule
from worker.vault.db.sql import load
from worker.vault.db.tables import GrantRow
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault

# The least time between two tries of a dead grant, however often an app asks for it.
FORCE_INTERVAL = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed grant; its tokens are still encrypted.

    Attributes:
        access_version, refresh_version: an outcome is stored only if the row still has these.
        until: the claim's deadline: no other worker claims the grant before, and a request must end well before it.
        in_doubt_since: when an earlier attempt with this refresh token was made whose outcome is unknown.
        attempts: failures in a row before this attempt; of a grant that is presumed dead, those since then.
        failing_since: when the first of these failures began.
        consented_at: when the user consented, at the latest.
        is_ordered: the operator ordered the renewal of all grants, also of dormant ones.
        target: what the requested token is for; by default the grant's own token.
        target_version: version of the stored token for that target.
    """

    id: int
    key: GrantKey
    owner: UUID
    claimed_at: datetime
    until: datetime
    state: str
    access_ciphertext: bytes | None
    access_version: int
    refresh_ciphertext: bytes | None
    refresh_version: int
    expires_at: datetime | None
    in_doubt_since: datetime | None
    attempts: int
    obtained_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    last_read_at: datetime | None = None
    is_ordered: bool = False
    failing_since: datetime | None = None
    consented_at: datetime | None = None
    target: TokenTarget = DEFAULT_TARGET
    target_version: int = 0

    @property
    def life(self) -> timedelta | None:
        """Return the life of the access token, if known."""
        return self.expires_at - self.obtained_at if self.expires_at and self.obtained_at else None


# In the order of claim_columns.sql.
_COLUMNS = (
    "id", "tenant", "connection", "user_id", "provider_user_id", "state", "access_ciphertext", "access_version",
    "refresh_ciphertext", "refresh_version", "expires_at", "in_doubt_since", "attempts", "obtained_at",
    "refresh_expires_at", "last_read_at", "is_ordered", "failing_since", "consented_at",
)  # fmt: skip
_CLAIM_DUE = load(__file__, "claim_due")
_CLAIM_ONE = load(__file__, "claim_one")


async def claim_due(
    vault: Vault,
    quotas: Mapping[tuple[str, str], int],
    *,
    owner: UUID,
    now: datetime,
    until: datetime,
    limit: int,
    due_by: datetime | None = None,
    connection: KeptConnection | None = None,
) -> list[Claim]:
    """Claim due grants for one owner, and commit the claims.

    Args:
        quotas: the most grants of each connection, by tenant and name.
        owner: identifies the batch.
        now: the database's time.
        until: the claims' deadline, beyond the longest possible call.
        limit: the most grants in all.
        due_by: claim grants that were due at this time; by default now.
        connection: runs the statement; by default any of the pool's.
    """
    asked = [{"tenant": tenant, "name": name, "quota": quota} for (tenant, name), quota in quotas.items()]
    values = {
        "quotas": json.dumps(asked), "owner": str(owner), "now": now.isoformat(), "until": until.isoformat(),
        "limit": str(limit), "due_by": (due_by or now).isoformat(),
    }  # fmt: skip
    rows = await (connection or KeptConnection(vault)).run(_CLAIM_DUE, values)
    return [_claim(dict(zip(_COLUMNS, row, strict=True)), owner, now, until) for row in rows]


async def claim_one(
    vault: Vault,
    grant_id: int,
    *,
    owner: UUID,
    now: datetime,
    until: datetime,
    access_version: int | None = None,
    force: bool = False,
    by_operator: bool = False,
) -> Claim | None:
    """Claim one grant whatever its due time, and commit.

    Args:
        owner: identifies the attempt.
        now, until: as for ``claim_due``.
        access_version: of the token to be replaced; None for any.
        force: also a dead grant, once a day at most.
        by_operator: also a dead grant at any time, and one in backoff.

    Returns:
        None if another worker has claimed it, or if it has changed since the caller read it: then read it again.
    """
    async with vault.statement() as connection:
        values = {
            "id": grant_id, "owner": owner, "now": now, "until": until, "expected_access_version": access_version, "force": force,
            "by_operator": by_operator, "forced_before": now - FORCE_INTERVAL,
        }  # fmt: skip
        row = (await connection.execute(_CLAIM_ONE, values)).one_or_none()
    return None if row is None else _claim(dict(row._mapping), owner, now, until)


def _claim(columns: dict[str, Any], owner: UUID, now: datetime, until: datetime) -> Claim:
    key = GrantKey(
        columns.pop("tenant"),
        columns.pop("connection"),
        columns.pop("user_id"),
        columns.pop("provider_user_id"),
    )
    return Claim(key=key, owner=owner, claimed_at=now, until=until, **columns)


async def is_held(vault: Vault, claim: Claim) -> bool:
    """Return whether a claim is still held.

    Check it before a token in doubt is sent again: the first answer may have been stored meanwhile.
    """
    statement = select(GrantRow.id).where(
        GrantRow.id == claim.id,
        GrantRow.claim_owner == claim.owner,
        GrantRow.refresh_version == claim.refresh_version,
    )
    return bool(await vault.run(statement))


def decrypt_refresh_token(vault: Vault, claim: Claim) -> Secret | None:
    """Decrypt the claimed refresh token.

    Raises:
        CannotDecrypt: the ring lacks its key, or the ciphertext belongs to another context.
    """
    if claim.refresh_ciphertext is None:
        return None
    return vault.refresh.decrypt(
        EncryptionContext.of_grant(claim.key, "refresh", claim.refresh_version), claim.refresh_ciphertext
    )


def decrypt_access_token(vault: Vault, claim: Claim) -> Secret | None:
    """Decrypt the claimed access token.

    Raises:
        CannotDecrypt: the ring lacks its key, or the ciphertext belongs to another context.
    """
    if claim.access_ciphertext is None:
        return None
    return vault.access.decrypt(
        EncryptionContext.of_access_token(claim.key, claim.access_version, claim.expires_at),
        claim.access_ciphertext,
    )


def unchanged_due_at(claim: Claim, now: datetime, jitter: float, policy: schedule.RenewalPolicy) -> datetime:
    """Return a grant's due time after another target's call.

    The claim may have brought it forward, but the grant's own access token is unchanged, and so is when it must be
    renewed.
    """
    if claim.obtained_at is None:
        return now
    return schedule.after_renewal(
        claim.expires_at, claim.obtained_at, jitter, policy, last_read_at=claim.last_read_at,
        refresh_expires_at=claim.refresh_expires_at,
    )  # fmt: skip


async def may_be_forced(vault: Vault, grant_id: int, *, now: datetime) -> bool:
    """Return whether a dead grant may be forced again."""
    statement = text("SELECT 1 FROM grants WHERE id = :id AND (forced_at IS NULL OR forced_at <= :before)")
    return bool(await vault.run(statement, {"id": grant_id, "before": now - FORCE_INTERVAL}))


async def backoff_left(vault: Vault, grant_id: int) -> float:
    """Return the seconds that are left of a grant's backoff."""
    statement = text("""
        SELECT extract(epoch FROM due_at - now())::float8 FROM grants
        WHERE id = :id AND attempts > 0 AND claim_owner IS NULL AND due_at > now()
    """)
    rows = await vault.run(statement, {"id": grant_id})
    return rows[0][0] if rows else 0.0
