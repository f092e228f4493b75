"""Refusals, kept until a renewal or a verdict settles them.

A trigger on ``grants`` removes a grant's refusal once the grant is renewed, dead, or erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.vault.db.sql import load
from worker.vault.db.tables import ConnectionRow, GrantRow, RefusalRow
from worker.vault.vault import Vault

# More refusals than this prove no more.
MAX_EVIDENCE = 32
# A grant is tried at least so often while its provider's server fails it.
SERVER_ERROR_GAP_SECONDS = 2 * 3600.0
# Refused grants are tried again within this time once the circuit closes or the client changes.
RECALL_WITHIN_SECONDS = 60.0
# Dead grants are tried again at this rate when the client changes, or faster where they are very many.
DEAD_RETRIES_PER_SECOND = 2.0
DEAD_RETRIED_WITHIN_SECONDS = 6 * 3600.0

_RECORD = load(__file__, "record_refusal")
_HAS_WITNESS = load(__file__, "has_witness")
_CALL_WITNESS = load(__file__, "call_witness")
_RECALL = load(__file__, "recall")
_RETRY_DEAD = load(__file__, "retry_dead")


class Suspicion(StrEnum):
    """Whom one refusal may concern."""

    CLIENT = "client"
    """Words about the client, such as ``invalid_client``."""
    UNCLEAR = "unclear"
    """An answer whose words name nobody for sure."""
    HELD = "held"
    """A verdict on the grant, under a client that has changed and has renewed nothing yet."""
    OUTAGE = "outage"
    """No answer of the provider's own: a server error, or none at all."""
    THROTTLED = "throttled"
    """The provider asks to be left alone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one grant was refused since it was last renewed.

    Attributes:
        tries: calls in a row that were refused so.
        first_at, last_at: when the first and the last of them were answered.
    """

    grant_id: int
    suspicion: Suspicion
    tries: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """What stands against a connection under its present client.

    Attributes:
        refusals: at most one a grant, all under this client.
        renewed_at: when this client last renewed a grant; None where it never did.
        answered_at: when the provider last answered for itself; None where it never did.
        has_witness: whether a renewable grant is left that was not refused since ``renewed_at``.
        circuit_blame: whom the circuit blames; None where it is closed.
    """

    refusals: Sequence[Refusal]
    renewed_at: datetime | None
    answered_at: datetime | None
    has_witness: bool
    circuit_blame: str | None = None

    def of(self, grant_id: int) -> Refusal | None:
        """Return the refusal of one grant."""
        return next((each for each in self.refusals if each.grant_id == grant_id), None)


async def record(
    vault: Vault,
    *,
    tenant: str,
    connection: str,
    grant_id: int,
    client: bytes,
    suspicion: Suspicion,
    code: str,
    begins_anew: bool,
    now: datetime,
) -> Evidence | None:
    """Store one refusal, and return its connection's evidence.

    Args:
        client: the fingerprint of the client that was refused.
        code: what the provider said, as a short code.
        begins_anew: the grant was renewed since its refusals before.

    Returns:
        None where the connection has another client by now: the refusal says nothing of that one.
    """
    values: dict[str, Any] = {
        "tenant": tenant, "connection": connection, "grant_id": grant_id, "client": client,
        "suspicion": suspicion.value, "code": code, "begins_anew": begins_anew, "now": now,
        "gap": SERVER_ERROR_GAP_SECONDS,
    }  # fmt: skip
    # Locked, so that two workers do not each miss the other's evidence.
    own = (
        select(ConnectionRow.renewed_at, ConnectionRow.answered_at, ConnectionRow.circuit_blame)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == connection,
            ConnectionRow.client_fingerprint == client,
        )
        .with_for_update()
    )
    async with vault.engine.begin() as transaction:
        row = (await transaction.execute(own)).one_or_none()
        if row is None:
            return None
        await transaction.execute(_RECORD, values)
        evidence = await _evidence(transaction, tenant, connection, client, row.renewed_at, row.answered_at)
        return replace(evidence, circuit_blame=row.circuit_blame)


async def _evidence(
    transaction: AsyncConnection,
    tenant: str,
    connection: str,
    client: bytes,
    renewed_at: datetime | None,
    answered_at: datetime | None,
) -> Evidence:
    recorded = (
        select(
            RefusalRow.grant_id,
            RefusalRow.suspicion,
            RefusalRow.tries,
            RefusalRow.first_at,
            RefusalRow.last_at,
        )
        .where(RefusalRow.tenant == tenant, RefusalRow.connection == connection, RefusalRow.client == client)
        .order_by(RefusalRow.last_at.desc())
        .limit(MAX_EVIDENCE)
    )
    found = [
        Refusal(row.grant_id, Suspicion(row.suspicion), row.tries, row.first_at, row.last_at)
        for row in await transaction.execute(recorded)
    ]
    values = {"tenant": tenant, "connection": connection, "client": client, "renewed_at": renewed_at}
    has_witness = bool((await transaction.execute(_HAS_WITNESS, values)).scalar_one())
    return Evidence(found, renewed_at, answered_at, has_witness)


async def last_renewal(vault: Vault, *, tenant: str, connection: str) -> datetime | None:
    """Return when the present client last renewed any grant.

    It reads all of a connection's grants: ask it only before a connection is blamed.
    """
    changed_at = (
        select(ConnectionRow.client_changed_at)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == connection)
        .scalar_subquery()
    )
    statement = (
        select(GrantRow.last_renewed_at)
        .where(
            GrantRow.tenant == tenant,
            GrantRow.connection == connection,
            GrantRow.last_renewed_at.is_not(None),
            (changed_at.is_(None)) | (GrantRow.last_renewed_at > changed_at),
        )
        .order_by(GrantRow.last_renewed_at.desc())
        .limit(1)
    )
    async with vault.engine.connect() as transaction:
        found: datetime | None = (await transaction.execute(statement)).scalar_one_or_none()
        return found


async def call_witness(vault: Vault, *, tenant: str, connection: str, now: datetime) -> None:
    """Make one grant due that was never refused.

    Its renewal says whether the client is good.
    """
    await vault.run(_CALL_WITNESS, {"tenant": tenant, "connection": connection, "now": now})


async def recall(transaction: AsyncConnection, *, tenant: str, connection: str, now: datetime) -> None:
    """Make the refused grants of a connection due soon."""
    values = {"tenant": tenant, "connection": connection, "now": now, "within": RECALL_WITHIN_SECONDS}
    await transaction.execute(_RECALL, values)


async def count_anew(transaction: AsyncConnection, *, tenant: str, connection: str) -> None:
    """Count the tries of refused grants anew.

    Most of them were their client's trouble, and say nothing of the grants' own.
    """
    statement = (
        update(RefusalRow)
        .where(RefusalRow.tenant == tenant, RefusalRow.connection == connection)
        .values(tries=1)
    )
    await transaction.execute(statement)


async def retry_dead(
    transaction: AsyncConnection, *, tenant: str, connection: str, client: bytes | None, now: datetime
) -> None:
    """Make the grants due that died under another client.

    Args:
        client: the identity of the present client.
    """
    values = {
        "tenant": tenant, "connection": connection, "client": client, "now": now,
        "rate": DEAD_RETRIES_PER_SECOND, "within": DEAD_RETRIED_WITHIN_SECONDS,
    }  # fmt: skip
    await transaction.execute(_RETRY_DEAD, values)


def is_suspected() -> ColumnElement[bool]:
    """Return the condition that refusals stand against a connection."""
    later = or_(ConnectionRow.renewed_at.is_(None), RefusalRow.last_at > ConnectionRow.renewed_at)
    return (
        select(RefusalRow.grant_id)
        .where(RefusalRow.tenant == ConnectionRow.tenant, RefusalRow.connection == ConnectionRow.name, later)
        .exists()
    )
