"""Refusals, kept until a renewal or a verdict resolves them.

A trigger on ``grants`` removes a grant's refusal when the grant is renewed, dead, or erased.
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

# Refusals to weigh: more would not prove more.
MAX_EVIDENCE = 32
# Server errors that are further apart than this do not count as one series.
SERVER_ERROR_GAP_SECONDS = 2 * 3600.0
# Refused grants are tried again within this time once the circuit closes or the client changes.
RECALL_WITHIN_SECONDS = 60.0
# When the client changes, dead grants are tried again at this rate, or faster if there are too many for the time below.
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
    """An error code about the client, such as ``invalid_client``."""
    UNCLEAR = "unclear"
    """An answer that blames nobody for certain."""
    HELD = "held"
    """A verdict on the grant, under a changed client that has renewed nothing yet."""
    OUTAGE = "outage"
    """No answer from the provider itself: a server error, or none at all."""
    THROTTLED = "throttled"
    """The provider asks to wait."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A grant's refusals in a row since its last renewal.

    Attributes:
        tries: their number.
        first_at, last_at: when the first and the last of them were answered.
    """

    grant_id: int
    suspicion: Suspicion
    tries: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence against a connection with its current client.

    Attributes:
        refusals: at most one for each grant, all under this client.
        renewed_at: when this client last renewed a grant; None if never.
        answered_at: when the provider itself last answered; None if never.
        has_witness: whether there is a renewable grant that was not refused since ``renewed_at``.
        circuit_blame: whom the circuit blames; None if it is closed.
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
        client: the fingerprint of the refused client.
        code: of the refusal.
        begins_anew: the grant was renewed after its earlier refusals.

    Returns:
        None if the connection has another client by now: the refusal says nothing about that one.
    """
    values: dict[str, Any] = {
        "tenant": tenant, "connection": connection, "grant_id": grant_id, "client": client,
        "suspicion": suspicion.value, "code": code, "begins_anew": begins_anew, "now": now,
        "gap": SERVER_ERROR_GAP_SECONDS,
    }  # fmt: skip
    # Locked, so that of two concurrent workers neither misses the other's evidence.
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
    """Return when the current client last renewed any grant.

    It reads all grants of the connection: call it only before the connection is blamed.
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

    Its renewal shows whether the client is right.
    """
    await vault.run(_CALL_WITNESS, {"tenant": tenant, "connection": connection, "now": now})


async def recall(transaction: AsyncConnection, *, tenant: str, connection: str, now: datetime) -> None:
    """Make the refused grants of a connection due soon."""
    values = {"tenant": tenant, "connection": connection, "now": now, "within": RECALL_WITHIN_SECONDS}
    await transaction.execute(_RECALL, values)


async def count_anew(transaction: AsyncConnection, *, tenant: str, connection: str) -> None:
    """Reset the tries of refused grants.

    Most of these refusals were caused by the client, and say nothing about the grants.
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
        client: the identity of the current client.
    """
    values = {
        "tenant": tenant, "connection": connection, "client": client, "now": now,
        "rate": DEAD_RETRIES_PER_SECOND, "within": DEAD_RETRIED_WITHIN_SECONDS,
    }  # fmt: skip
    await transaction.execute(_RETRY_DEAD, values)


def is_suspected() -> ColumnElement[bool]:
    """Return the condition that a connection has unresolved refusals."""
    later = or_(ConnectionRow.renewed_at.is_(None), RefusalRow.last_at > ConnectionRow.renewed_at)
    return (
        select(RefusalRow.grant_id)
        .where(RefusalRow.tenant == ConnectionRow.tenant, RefusalRow.connection == ConnectionRow.name, later)
        .exists()
    )
