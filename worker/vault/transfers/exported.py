"""Exports refresh tokens, each recorded in the audit before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.vault.db.sql import load
from worker.vault.pauses import PauseScope
from worker.vault.vault import Vault

# Grants of one transaction; the audit accepts at most 1,000 records at once.
PAGE_SIZE = 500

_PAGE = load(__file__, "export")
_LEFT_OUT = load(__file__, "count_left_out")
_RECORD = text("SELECT record_reads(CAST(:records AS jsonb))")


@dataclass(frozen=True, slots=True)
class ExportedGrant:
    """An exported grant.

    Attributes:
        refresh: None if no key of the ring decrypts it.
        consented_at: when the user consented, at the latest.
    """

    key: GrantKey
    refresh: Secret | None
    scopes: tuple[str, ...] | None
    consented_at: datetime


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Grants that no other vault takes, or not yet.

    Those of one connection, by why.

    Attributes:
        why: ``development_keys``, ``deleted``, ``no_refresh_token``, ``reauthorization_required``, ``revoked``; None
            where they are written and their connection has a problem.
        problem: what is wrong with the connection, with the fix.
    """

    why: str | None
    tenant: str
    connection: str
    problem: str | None
    grants: int


async def count_left_out(vault: Vault, scope: PauseScope) -> list[LeftOut]:
    """Count what ``export`` leaves out, by why."""
    values = {"tenant": scope.tenant, "connection": scope.connection}
    return [LeftOut(*row) for row in await vault.run(_LEFT_OUT, values)]


async def export(vault: Vault, scope: PauseScope, *, reason: str) -> AsyncIterator[ExportedGrant]:
    """Yield the grants that another vault can renew, by id.

    Each is recorded in the audit before it is yielded.

    Args:
        reason: for the audit.
    """
    values, after = {"tenant": scope.tenant, "connection": scope.connection, "limit": PAGE_SIZE}, 0
    while True:
        async with vault.engine.begin() as connection:
            rows = (await connection.execute(_PAGE, values | {"after": after})).all()
            records = [
                {
                    "source": "command", "tenant": row.tenant, "connection": row.connection, "user_id": row.user_id,
                    "account": row.provider_user_id, "outcome": "Exported", "reason": reason,
                }
                for row in rows
            ]  # fmt: skip
            await connection.execute(_RECORD, {"records": json.dumps(records)})
        if not rows:
            return
        after = rows[-1].id
        for row in rows:
            key = GrantKey(row.tenant, row.connection, row.user_id, row.provider_user_id)
            refresh = _decrypt(vault, key, row.refresh_version, bytes(row.refresh_ciphertext))
            scopes = None if row.scopes is None else tuple(row.scopes)
            yield ExportedGrant(key, refresh, scopes, row.consented_at)


def _decrypt(vault: Vault, key: GrantKey, version: int, ciphertext: bytes) -> Secret | None:
    try:
        return vault.refresh.decrypt(EncryptionContext.of_grant(key, "refresh", version), ciphertext)
    except CannotDecrypt:
        return None
