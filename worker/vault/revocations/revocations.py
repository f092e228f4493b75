"""Tokens to be revoked, and the results.

The list is in Postgres, so a command that was killed continues when it runs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.vault.db.sql import load
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

# Grants of one statement, which locks them for some milliseconds.
BATCH_SIZE = 500

_REQUEST = load(__file__, "request")
_TAKE_RELEASED = load(__file__, "take_released")
_CLAIM = load(__file__, "claim")
_FINISH = load(__file__, "finish")
_SCOPE = """
tenant = ANY(:tenants) AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
AND (CAST(:connection AS text) IS NULL OR connection = :connection)
"""
_REOPEN = text(f"""
UPDATE revocations SET finished_at = NULL, outcome = NULL, code = NULL, attempts = 0, next_at = :now
WHERE outcome = 'not_revoked' AND {_SCOPE}
""")  # noqa: S608  # our own text
_PENDING = text(f"""
SELECT tenant, connection, count(*) FROM revocations WHERE finished_at IS NULL AND {_SCOPE}
GROUP BY tenant, connection ORDER BY tenant, connection
""")  # noqa: S608
_LIST = text(f"""
SELECT grant_id, tenant, connection, nullif(user_id, '') AS user_id, nullif(provider_user_id, '') AS account, code,
    access_expires_at
FROM revocations WHERE outcome = 'not_revoked' AND {_SCOPE} ORDER BY id
""")  # noqa: S608
_POSTPONE = text("""
UPDATE revocations SET attempts = attempts + 1, next_at = :next_at, claimed_until = NULL, code = :code WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which tokens to revoke.

    Attributes:
        user_id: Auth0's user id; None for all users and admin grants.
        connection: the connection's name; None for all.
    """

    tenants: Sequence[str]
    user_id: str | None = None
    connection: str | None = None

    def values(self) -> dict[str, Any]:
        """Return it as parameters of a statement."""
        return {"tenants": list(self.tenants), "user_id": self.user_id, "connection": self.connection}


@dataclass(frozen=True, slots=True)
class Revocation:
    """One grant's tokens to be revoked, still encrypted.

    Attributes:
        in_doubt: an earlier call's outcome is unknown: the provider may have issued a token that nobody has.
        attempts: failed calls before this one.
    """

    id: int
    grant_id: int
    key: GrantKey
    in_doubt: bool
    access_ciphertext: bytes | None
    access_version: int
    access_expires_at: datetime | None
    refresh_ciphertext: bytes | None
    refresh_version: int
    attempts: int

    def refresh_token(self, vault: Vault) -> Secret | None:
        """Decrypt the refresh token; raises CannotDecrypt."""
        if self.refresh_ciphertext is None:
            return None
        context = EncryptionContext.of_grant(self.key, "refresh", self.refresh_version)
        return vault.refresh.decrypt(context, self.refresh_ciphertext)

    def access_token(self, vault: Vault) -> Secret | None:
        """Decrypt the access token; raises CannotDecrypt."""
        if self.access_ciphertext is None:
            return None
        context = EncryptionContext.of_access_token(self.key, self.access_version, self.access_expires_at)
        return vault.access.decrypt(context, self.access_ciphertext)


async def request(vault: Vault, scope: Scope, *, now: datetime) -> int:
    """Move the scope's tokens from their grants to this list.

    From each batch's commit on, readers are refused. Tokens that an earlier run could not revoke are tried again.

    Returns:
        The number of grants.
    """
    await vault.run(_REOPEN, scope.values() | {"now": now})
    count, after = 0, 0
    values = scope.values() | {"now": now, "limit": BATCH_SIZE}
    while rows := await vault.run(_REQUEST, values | {"after": after}):
        count, after = count + len(rows), rows[-1][0]
        await wake(vault, [grant_id for (grant_id,) in rows])
    return count


async def take_released(vault: Vault, tenants: Sequence[str], *, now: datetime) -> None:
    """Move refresh tokens whose renewals have ended meanwhile."""
    await vault.run(_TAKE_RELEASED, {"tenants": list(tenants), "now": now})


async def count_pending(vault: Vault, scope: Scope) -> dict[tuple[str, str], int]:
    """Count the grants left to revoke, by tenant and connection."""
    rows = await vault.run(_PENDING, scope.values())
    return {(tenant, connection): count for tenant, connection, count in rows}


async def claim(
    vault: Vault, scope: Scope, tenant: str, connection: str, *, now: datetime, until: datetime, limit: int
) -> list[Revocation]:
    """Claim some of a connection's tokens to revoke."""
    values = {
        "tenant": tenant, "connection": connection, "user_id": scope.user_id, "now": now, "until": until,
        "limit": limit,
    }  # fmt: skip
    async with vault.statement() as open_connection:
        rows = (await open_connection.execute(_CLAIM, values)).mappings().all()
    return [_revocation(dict(row)) for row in rows]


def _revocation(columns: dict[str, Any]) -> Revocation:
    names = ("tenant", "connection", "user_id", "provider_user_id")
    return Revocation(key=GrantKey(*(columns.pop(name) for name in names)), **columns)


async def finish(vault: Vault, revocation: Revocation, code: str | None, *, now: datetime) -> None:
    """Record that tokens are revoked, or why unknown.

    Args:
        code: None if the provider has revoked them.
    """
    outcome = "revoked" if code is None else "not_revoked"
    await vault.run(_FINISH, {"id": revocation.id, "outcome": outcome, "code": code, "now": now})


async def postpone(vault: Vault, revocation: Revocation, code: str, *, next_at: datetime) -> None:
    """Record a failed call, and when to repeat it."""
    await vault.run(_POSTPONE, {"id": revocation.id, "code": code, "next_at": next_at})


async def list_not_revoked(vault: Vault, scope: Scope) -> list[dict[str, Any]]:
    """Return grants whose tokens may still be valid, and why."""
    async with vault.engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(_LIST, scope.values())).mappings()]
