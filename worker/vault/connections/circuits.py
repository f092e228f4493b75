"""The circuit that stops calls to a connection's token endpoint.

While it is open, one call at a time probes whether it may close.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.vault import schedule
from worker.vault.db.sql import load
from worker.vault.db.tables import ConnectionRow
from worker.vault.vault import Vault

FIRST_PROBE_DELAY = timedelta(minutes=1)
MAX_PROBE_DELAY = timedelta(hours=1)
# An outage ends by itself: its end is noticed within half a margin.
MAX_OUTAGE_PROBE_DELAY = timedelta(minutes=5)
# So many calls in a row that a provider does not answer for itself are an outage.
MAX_FAILED_CALLS = 5

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
        suspect_grant: a grant whose refusal may be the connection's trouble.
        failed_calls: calls in a row that the provider did not answer for itself.
    """

    opened_at: datetime | None = None
    until: datetime | None = None
    code: str | None = None
    blame: str | None = None
    suspect_grant: int | None = None
    failed_calls: int = 0

    @property
    def is_open(self) -> bool:
        """Whether calls are stopped, but for probes."""
        return self.opened_at is not None


CIRCUIT_COLUMNS = (
    ConnectionRow.circuit_opened_at.label("opened_at"), ConnectionRow.circuit_until.label("until"),
    ConnectionRow.circuit_code.label("code"), ConnectionRow.circuit_blame.label("blame"),
    ConnectionRow.suspect_grant.label("suspect_grant"), ConnectionRow.failed_calls.label("failed_calls"),
)  # fmt: skip
"""The columns of a ``Circuit``, by its fields' names."""

# What a connection has whose circuit is closed.
CLOSED: Mapping[str, Any] = {
    "circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0,
    "circuit_blame": None, "suspect_grant": None, "failed_calls": 0,
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


async def record_outage(vault: Vault, *, tenant: str, name: str) -> bool:
    """Count a call that the provider did not answer itself.

    Returns:
        Whether it counts as an outage now.
    """
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
        .values(failed_calls=ConnectionRow.failed_calls + 1)
        .returning(ConnectionRow.failed_calls)
    )
    async with vault.engine.begin() as connection:
        return ((await connection.execute(statement)).scalar_one_or_none() or 0) >= MAX_FAILED_CALLS


async def clear_outage(vault: Vault, *, tenant: str, name: str) -> None:
    """Reset the count: the provider has answered for itself."""
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
        .values(failed_calls=0)
    )
    async with vault.engine.begin() as connection:
        await connection.execute(statement)


async def record_suspect(vault: Vault, *, tenant: str, name: str, grant_id: int) -> int | None:
    """Record a grant whose refusal may be the connection's.

    Returns:
        The grant recorded before it, since the connection's last renewal; None if there was none.
    """
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    before = select(ConnectionRow.suspect_grant).where(*this).with_for_update()
    recording = (
        update(ConnectionRow)
        .where(*this, ConnectionRow.suspect_grant.is_(None))
        .values(suspect_grant=grant_id)
    )
    async with vault.engine.begin() as connection:
        earlier = (await connection.execute(before)).scalar_one_or_none()
        await connection.execute(recording)
    return earlier


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
        retry_after: seconds the provider asked to wait.
        attempted_at: when the refused call was made. Calls that were under way when the circuit opened
            say nothing new, and do not lengthen the pause.

    Returns:
        When the next probe may be made; None where the circuit stays as it is.
    """
    cap = MAX_PROBE_DELAY if blame == "operator" else MAX_OUTAGE_PROBE_DELAY
    pause = func.least(FIRST_PROBE_DELAY * func.power(2, func.least(ConnectionRow.circuit_failures, 10)), cap)
    wait = func.greatest(pause * (1 - jitter / 8), timedelta(seconds=retry_after or 0))
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


async def close_circuit(vault: Vault, *, tenant: str, name: str, now: datetime) -> None:
    """Renew a connection's grants again, as one was renewed.

    No grant is suspect any more, and what became due meanwhile is spread out.
    """
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    was_open = select(ConnectionRow.circuit_opened_at.is_not(None)).where(*this).with_for_update()
    async with vault.engine.begin() as connection:
        waited = (await connection.execute(was_open)).scalar_one_or_none()
        await connection.execute(update(ConnectionRow).where(*this).values(CLOSED))
        if waited:
            await stagger(connection, tenant, name, now)
