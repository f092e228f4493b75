"""The OAuth client that renews a connection's grants."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, text, update

from worker.vault.connections import circuits
from worker.vault.connections.connection import StoredConnection
from worker.vault.connections.observations import NOTHING_OBSERVED
from worker.vault.db.tables import ConnectionRow
from worker.vault.refusals import refusals
from worker.vault.vault import Vault

_WAKE_DORMANT = text("""
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
    identity: bytes | None,
    problem: str | None,
    problem_message: str | None,
    token_host: str | None = None,
    renew: str = "eager",
    now: datetime | None = None,
) -> bool:
    """Record a connection's client, or why it has none.

    A changed secret or endpoint closes the circuit, and refused grants are tried again: once it is corrected, a wrong
    secret has done no damage. Grants that died under another client id or endpoint are tried again too, at a limited
    rate. When the connection changes from ``on-read`` to ``eager``, its dormant grants become due.

    Args:
        fingerprint: of the client's credentials and endpoint.
        identity: fingerprint of the client's id and endpoint alone; None if there is no client.
        problem, problem_message: why no grant can be renewed, as a code and for the operator.
        token_host: of the token endpoint that Auth0 names; the first one stays until the operator trusts another.
        renew: ``eager`` or ``on-read``.
        now: the database's time by default.

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
    is_known = identity in (None, stored.client_identity)
    is_first_host = token_host is not None and stored.token_host is None
    if is_known and not is_first_host and before == (provider, fingerprint, problem, problem_message, renew):
        return False
    at = now or await vault.now()
    columns: dict[str, Any] = {
        "provider": provider, "client_id": client_id, "client_fingerprint": fingerprint,
        "problem": problem, "problem_message": problem_message, "renew": renew,
    }  # fmt: skip
    if is_first_host:
        columns["token_host"] = func.coalesce(ConnectionRow.token_host, token_host)
    is_other_client = not is_known and stored.client_identity is not None
    if not is_known:
        columns["client_identity"] = identity
    if is_other_client:
        columns |= {"client_changed_at": at, "renewed_at": None, "answered_at": None}
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
            await connection.execute(_WAKE_DORMANT, {"tenant": stored.tenant, "name": stored.name})
        if stored.client_fingerprint != fingerprint:
            if stored.circuit.is_open:
                await circuits.stagger(connection, stored.tenant, stored.name, at)
            await refusals.recall(connection, tenant=stored.tenant, connection=stored.name, now=at)
        if is_other_client:
            await refusals.retry_dead(
                connection, tenant=stored.tenant, connection=stored.name, client=identity, now=at
            )
    return True


_TRUST = text("UPDATE connections SET token_host = :host WHERE tenant = :tenant AND name = :name")


async def trust_host(vault: Vault, tenant: str, name: str, host: str) -> None:
    """Allow only this host for a connection's tokens."""
    await vault.run(_TRUST, {"tenant": tenant, "name": name, "host": host})
