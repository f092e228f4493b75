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

# The first probe comes soon: should the circuit be open without need, nobody's token ends meanwhile.
FIRST_PROBE_DELAY = timedelta(seconds=15)
SECOND_PROBE_DELAY = timedelta(minutes=1)
MAX_PROBE_DELAY = timedelta(hours=1)
# An outage ends by itself: its end is noticed within half a margin.
MAX_OUTAGE_PROBE_DELAY = timedelta(minutes=5)

# When a circuit closes, the grants that waited come back at once up to this number, then at twice the rate every
# few seconds, then at a steady rate: so many a second, or what is through within a margin.
RECOVERY_BURST = 32
RECOVERY_DOUBLING = 5.0
RECOVERY_RATE = 100.0
RECOVERY_TIME = schedule.MAX_MARGIN


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit of one connection; closed by default.

    Attributes:
        opened_at: since when calls are stopped; None while it is closed.
        until: when the next probe may be made; None while it is closed.
        code: why it was opened, as a refusal's code.
        blame: ``operator`` where the client is refused, ``nobody`` in an outage.
    """

    opened_at: datetime | None = None
    until: datetime | None = None
    code: str | None = None
    blame: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are stopped, but for probes."""
        return self.opened_at is not None


CIRCUIT_COLUMNS = (
    ConnectionRow.circuit_opened_at.label("opened_at"), ConnectionRow.circuit_until.label("until"),
    ConnectionRow.circuit_code.label("code"), ConnectionRow.circuit_blame.label("blame"),
)  # fmt: skip
"""The columns of a ``Circuit``, by its fields' names."""

# What a connection has whose circuit is closed.
CLOSED: dict[str, Any] = {
    "circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0,
    "circuit_blame": None,
}  # fmt: skip

_STAGGER = load(__file__, "stagger")


async def stagger(connection: AsyncConnection, tenant: str, name: str, now: datetime) -> None:
    """Spread out what became due behind a circuit.

    Runs in the caller's transaction.
    """
    values = {
        "tenant": tenant, "name": name, "now": now, "burst": RECOVERY_BURST, "rate": RECOVERY_RATE,
        "doubling": RECOVERY_DOUBLING, "at_most": RECOVERY_TIME.total_seconds(),
    }  # fmt: skip
    await connection.execute(_STAGGER, values)


async def record_answer(vault: Vault, *, tenant: str, name: str, now: datetime, probe_again: bool) -> None:
    """Record the provider's own answer: it ends an outage.

    Args:
        probe_again: end the pause of a circuit that is open because the client was refused.
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
    attempted_at: datetime,
    now: datetime,
    blame: Literal["operator", "nobody"] = "operator",
    jitter: float = 0.0,
    retry_after: float | None = None,
) -> datetime | None:
    """Stop the calls of a connection, but for probes.

    It closes when a probe succeeds, or the credentials change.

    Args:
        fingerprint: of the client that was refused; a circuit is not opened for credentials already replaced.
        code: what the provider said.
        blame: who has to act; nobody in an outage.
        jitter: 0 to 1, uniform; takes up to an eighth off the pause, so that connections do not probe together.
        retry_after: seconds the provider asked one grant to wait.
        attempted_at: when the refused call was made. Calls that were under way when the circuit opened
            say nothing new, and do not lengthen the pause.

    Returns:
        When the next probe may be made; None where the circuit stays as it is.
    """
    cap = MAX_PROBE_DELAY if blame == "operator" else MAX_OUTAGE_PROBE_DELAY
    early = 1 - jitter / 8
    doubled = SECOND_PROBE_DELAY * early * func.power(2, func.least(ConnectionRow.circuit_failures - 1, 10))
    pause = case(
        (ConnectionRow.circuit_failures == 0, FIRST_PROBE_DELAY * early),
        else_=func.least(doubled, cap * early),
    )
    # Each grant that was told to wait does so. Whether that is meant for the others too, another one shows.
    wait = func.greatest(pause, min(timedelta(seconds=retry_after or 0), SECOND_PROBE_DELAY))
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.client_fingerprint.is_not_distinct_from(fingerprint),
            or_(ConnectionRow.circuit_opened_at.is_(None), ConnectionRow.circuit_opened_at < attempted_at),
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
    """Return whether the caller may make the due probe.

    Nobody else may before ``until``. Batches claim the probe with their grants.
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
    """Make the probe due again: it was not sent."""
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

    What became due meanwhile is spread out.
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
