"""The OAuth client that renews a connection's grants."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import text, update

from worker.vault.connections import circuits
from worker.vault.connections.connection import StoredConnection
from worker.vault.connections.observations import NOTHING_OBSERVED
from worker.vault.db.tables import ConnectionRow
from worker.vault.vault import Vault

_WAKE = text("""
UPDATE grants SET due_at = now() + random() * interval '10 minutes'
WHERE tenant = :tenant AND connection = :name AND claim_owner IS NULL AND attempts = 0
    AND due_at IS NOT NULL AND (expires_at IS NULL OR due_at > expires_at)
""")


async def update_client(
    vault: Vault,
    stored: StoredConnection,
    *,
    provider: str | None,
    client_id: str | None,
    fingerprint: bytes | None,
    problem: str | None,
    problem_message: str | None,
    renew: str = "eager",
    now: datetime | None = None,
) -> bool:
    """Record which client renews a connection, or why none.

    A client with other credentials or another endpoint than before closes the circuit: correcting a wrong
    secret is enough. Dormant grants are woken when all are to be kept fresh again.

    Args:
        now: the time, by default the database's.

    Returns:
        Whether anything changed.
    """
    before = (
        stored.provider,
        stored.client_fingerprint,
        stored.problem,
        stored.problem_message,
        stored.renew,
    )
    if before == (provider, fingerprint, problem, problem_message, renew):
        return False
    columns: dict[str, Any] = {
        "provider": provider, "client_id": client_id, "client_fingerprint": fingerprint,
        "problem": problem, "problem_message": problem_message, "renew": renew,
    }  # fmt: skip
    if stored.client_fingerprint != fingerprint:
        columns |= circuits.CLOSED
    if stored.provider != provider:
        columns |= NOTHING_OBSERVED
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == stored.tenant, ConnectionRow.name == stored.name)
            .values(columns)
        )
        if stored.renew == "on-read" and renew == "eager":
            await connection.execute(_WAKE, {"tenant": stored.tenant, "name": stored.name})
        if stored.client_fingerprint != fingerprint and stored.circuit.is_open:
            await circuits.stagger(connection, stored.tenant, stored.name, now or await vault.now())
    return True
