"""The circuit that stops calls to a connection's token endpoint.

While it is open, one call at a time probes whether it may close.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.vault import schedule
from worker.vault.db.sql import load
from worker.vault.db.tables import ConnectionRow
from worker.vault.refusals.refusals import count_anew, recall
from worker.vault.vault import Vault

# The first probe comes soon, so that no token ends meanwhile if the circuit was opened by mistake.
FIRST_PROBE_DELAY = timedelta(seconds=15)
SECOND_PROBE_DELAY = timedelta(minutes=1)
MAX_PROBE_DELAY = timedelta(hours=1)
# An outage ends by itself, and its end has to be noticed within half a renewal margin.
MAX_OUTAGE_PROBE_DELAY = timedelta(minutes=5)

# When a circuit closes, this many of the waiting grants become due at once, then twice as many every few seconds, then a
# constant number per second, or as many as are needed to finish within the recovery time.
RECOVERY_BURST = 32  # grants
RECOVERY_DOUBLING = 5.0  # seconds
RECOVERY_RATE = 100.0  # grants per second
RECOVERY_TIME = schedule.MAX_MARGIN


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit of one connection; closed by default.

    Attributes:
        opened_at: since when calls are stopped; None while it is closed.
        until: when the next probe may be made; None while it is closed.
        code: why it was opened, as a refusal's code.
        blame: ``operator`` if the client is refused, ``nobody`` in an outage.
    """

    opened_at: datetime | None = None
    until: datetime | None = None
    code: str | None = None
    blame: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls other than probes are stopped."""
        return self.opened_at is not None


CIRCUIT_COLUMNS = (
    ConnectionRow.circuit_opened_at.label("opened_at"), ConnectionRow.circuit_until.label("until"),
    ConnectionRow.circuit_code.label("code"), ConnectionRow.circuit_blame.label("blame"),
)  # fmt: skip
"""The columns of a ``Circuit``, by its fields' names."""

# The columns of a connection whose circuit is closed.
CLOSED: dict[str, Any] = {
    "circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0,
    "circuit_blame": None,
}  # fmt: skip

_STAGGER = load(__file__, "stagger")


async def stagger(connection: AsyncConnection, tenant: str, name: str, now: datetime) -> None:
    """Spread out grants that became due behind a circuit.

    Runs in the caller's transaction.
    """
    values = {
        "tenant": tenant, "name": name, "now": now, "burst": RECOVERY_BURST, "rate": RECOVERY_RATE,
        "doubling": RECOVERY_DOUBLING, "at_most": RECOVERY_TIME.total_seconds(),
    }  # fmt: skip
    await connection.execute(_STAGGER, values)


async def record_answer(vault: Vault, *, tenant: str, name: str, now: datetime, probe_again: bool) -> None:
    """Record the provider's own answer, which ends an outage.

    Args:
        probe_again: if the circuit is open because the client was refused, allow the next probe now.
    """
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    blame = select(ConnectionRow.circuit_blame).where(*this).with_for_update()
    async with vault.engine.begin() as connection:
        ends_outage = (await connection.execute(blame)).scalar_one_or_none() == "nobody"
        columns: dict[str, Any] = {"answered_at": now}
        if ends_outage:
            columns |= CLOSED
        elif probe_again:
            columns["circuit_until"] = case((ConnectionRow.circuit_opened_at.is_not(None), now))
        await connection.execute(update(ConnectionRow).where(*this).values(columns))
        if ends_outage:
            await stagger(connection, tenant, name, now)
            await recall(connection, tenant=tenant, connection=name, now=now)


async def open_circuit(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    fingerprint: bytes | None,
    code: str,
    claimed_at: datetime,
    now: datetime,
    blame: Literal["operator", "nobody"] = "operator",
    jitter: float = 0.0,
    retry_after: float | None = None,
) -> datetime | None:
    """Stop all calls of a connection except probes.

    The circuit closes when a probe succeeds, or the credentials change.

    Args:
        fingerprint: of the refused client; no circuit is opened for credentials that were already replaced.
        code: of the refusal.
        claimed_at: when the refused grant was claimed. Grants that other workers had claimed when the circuit opened do
            not lengthen its pause.
        blame: who has to act; nobody in an outage.
        jitter: 0 to 1; it shortens the pause by up to an eighth, so that connections do not probe together.
        retry_after: seconds that the provider asked one grant to wait.

    Returns:
        When the next probe may be made; None if the circuit is unchanged.
    """
    cap = MAX_PROBE_DELAY if blame == "operator" else MAX_OUTAGE_PROBE_DELAY
    early = 1 - jitter / 8
    doubled = SECOND_PROBE_DELAY * early * func.power(2, func.least(ConnectionRow.circuit_failures - 1, 10))
    pause = case(
        (ConnectionRow.circuit_failures == 0, FIRST_PROBE_DELAY * early),
        else_=func.least(doubled, cap * early),
    )
    # The grant that was told to wait does so. Whether the others have to wait as well, a probe with another one shows.
    wait = func.greatest(pause, min(timedelta(seconds=retry_after or 0), SECOND_PROBE_DELAY))
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.client_fingerprint.is_not_distinct_from(fingerprint),
            or_(ConnectionRow.circuit_opened_at.is_(None), ConnectionRow.circuit_opened_at < claimed_at),
        )
        .values(
            circuit_opened_at=func.coalesce(ConnectionRow.circuit_opened_at, now),
            circuit_until=now + wait,
            circuit_code=code,
            circuit_blame=blame,
            circuit_failures=ConnectionRow.circuit_failures + 1,
        )
        .returning(ConnectionRow.circuit_until)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none()


async def claim_probe(vault: Vault, *, tenant: str, name: str, now: datetime, until: datetime) -> bool:
    """Claim the due probe; False if it is not due.

    Nobody else may make one before ``until``. Batches claim the probe together with their grants.
    """
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name, ConnectionRow.circuit_until <= now)
        .values(circuit_until=until)
        .returning(ConnectionRow.name)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none() is not None


async def release_probe(vault: Vault, *, tenant: str, name: str, now: datetime) -> None:
    """Make the probe due again, because it was not sent."""
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.circuit_opened_at.is_not(None),
        )
        .values(circuit_until=now)
    )
    async with vault.engine.begin() as connection:
        await connection.execute(statement)


async def acquit(vault: Vault, *, tenant: str, name: str, fingerprint: bytes | None, now: datetime) -> None:
    """Record that a client renews grants, and close its circuit.

    The grants that became due meanwhile are spread out.
    """
    this = (
        ConnectionRow.tenant == tenant,
        ConnectionRow.name == name,
        ConnectionRow.client_fingerprint.is_not_distinct_from(fingerprint),
    )
    was_open = select(ConnectionRow.circuit_opened_at.is_not(None)).where(*this).with_for_update()
    async with vault.engine.begin() as connection:
        waited = (await connection.execute(was_open)).scalar_one_or_none()
        if waited is None:
            return  # the client has changed meanwhile
        columns = CLOSED | {"renewed_at": now, "answered_at": now}
        await connection.execute(update(ConnectionRow).where(*this).values(columns))
        if waited:
            await stagger(connection, tenant, name, now)
            await recall(connection, tenant=tenant, connection=name, now=now)
            await count_anew(connection, tenant=tenant, connection=name)
