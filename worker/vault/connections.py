"""Connections in the vault: what Auth0 shows of them, and the circuit that guards their token endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from worker.errors import CannotOpen
from worker.tokens import Secret
from worker.vault.database import Vault
from worker.vault.keyring import Place
from worker.vault.tables import ConnectionRow

PROBE_FIRST = timedelta(minutes=1)
PROBE_CAP = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as stored, its options still sealed."""

    tenant: str
    name: str
    strategy: str
    provider: str | None
    problem: str | None
    problem_message: str | None
    options_sealed: bytes | None
    options_version: int
    client_fingerprint: bytes | None
    circuit_opened_at: datetime | None
    circuit_until: datetime | None
    circuit_code: str | None
    suspect_grant: int | None


_STORED = (
    ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.strategy, ConnectionRow.provider, ConnectionRow.problem,
    ConnectionRow.problem_message, ConnectionRow.options_sealed, ConnectionRow.options_version,
    ConnectionRow.client_fingerprint, ConnectionRow.circuit_opened_at, ConnectionRow.circuit_until, ConnectionRow.circuit_code,
    ConnectionRow.suspect_grant,
)  # fmt: skip


def _place(tenant: str, name: str, version: int) -> Place:
    return Place("connections", (tenant, name), "options", version)


def open_options(vault: Vault, stored: StoredConnection) -> Mapping[str, Any] | None:
    """Decrypt what Auth0 last showed of a connection; None where it never showed any options.

    Raises:
        CannotOpen: the refresh ring lacks the key, or the ciphertext is out of place.
    """
    if stored.options_sealed is None:
        return None
    place = _place(stored.tenant, stored.name, stored.options_version)
    options: Mapping[str, Any] = json.loads(vault.refresh.open(place, stored.options_sealed).reveal())
    return options


async def stored(vault: Vault, tenants: Sequence[str], name: str | None = None) -> list[StoredConnection]:
    """Read the connections of these tenants, or the one of this name."""
    statement = (
        select(*_STORED)
        .where(ConnectionRow.tenant.in_(tenants))
        .order_by(ConnectionRow.tenant, ConnectionRow.name)
    )
    if name is not None:
        statement = statement.where(ConnectionRow.name == name)
    async with vault.engine.connect() as connection:
        return [StoredConnection(**row) for row in (await connection.execute(statement)).mappings()]


async def store(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    auth0_id: str,
    strategy: str,
    options: Mapping[str, Any] | None,
    notes: Sequence[str],
    now: datetime,
) -> None:
    """Keep what Auth0 shows of a connection. Absent options never erase the ones held."""
    before = await stored(vault, [tenant], name)
    columns: dict[str, Any] = {
        "auth0_id": auth0_id, "strategy": strategy, "notes": list(notes), "synced_at": now,
    }  # fmt: skip
    if options is not None and not (before and _same_options(vault, before[0], options)):
        version = (before[0].options_version if before else 0) + 1
        sealed = vault.refresh.seal(_place(tenant, name, version), Secret(json.dumps(options)))
        columns |= {"options_sealed": sealed, "options_version": version}
    statement = insert(ConnectionRow).values(tenant=tenant, name=name, **columns)
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[ConnectionRow.tenant, ConnectionRow.name], set_=columns
            )
        )


def _same_options(vault: Vault, before: StoredConnection, options: Mapping[str, Any]) -> bool:
    try:
        return open_options(vault, before) == options
    except CannotOpen:
        return False  # what cannot be read any more is replaced by what Auth0 shows now


async def settle(
    vault: Vault,
    stored: StoredConnection,
    *,
    provider: str | None,
    client_id: str | None,
    fingerprint: bytes | None,
    problem: str | None,
    problem_message: str | None,
) -> bool:
    """Record whether a connection's tokens can be renewed, and by which client.

    A client with other credentials or another endpoint than before closes the circuit: a wrong secret heals
    when it is corrected.

    Returns:
        Whether anything changed.
    """
    before = (stored.provider, stored.client_fingerprint, stored.problem, stored.problem_message)
    if before == (provider, fingerprint, problem, problem_message):
        return False
    columns: dict[str, Any] = {
        "provider": provider, "client_id": client_id, "client_fingerprint": fingerprint,
        "problem": problem, "problem_message": problem_message,
    }  # fmt: skip
    if stored.client_fingerprint != fingerprint:
        columns |= _CLOSED
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == stored.tenant, ConnectionRow.name == stored.name)
            .values(columns)
        )
    return True


_CLOSED: Mapping[str, Any] = {
    "circuit_opened_at": None, "circuit_until": None, "circuit_code": None, "circuit_failures": 0,
    "suspect_grant": None,
}  # fmt: skip


async def suspect(vault: Vault, *, tenant: str, name: str, grant_id: int) -> int | None:
    """Note a grant whose refusal may be its own trouble or the connection's.

    Returns:
        The grant that was noted before, since the connection's last renewal; None where none was.
    """
    this = (ConnectionRow.tenant == tenant, ConnectionRow.name == name)
    before = select(ConnectionRow.suspect_grant).where(*this).with_for_update()
    noting = (
        update(ConnectionRow)
        .where(*this, ConnectionRow.suspect_grant.is_(None))
        .values(suspect_grant=grant_id)
    )
    async with vault.engine.begin() as connection:
        noted = (await connection.execute(before)).scalar_one_or_none()
        await connection.execute(noting)
    return noted


async def open_circuit(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    fingerprint: bytes | None,
    code: str,
    began: datetime,
    now: datetime,
) -> datetime | None:
    """Stop renewing a connection's tokens until a probe succeeds or its credentials change.

    Args:
        fingerprint: of the client that was refused; a circuit is not opened for credentials already replaced.
        code: what the provider said.
        began: when the refused attempt was claimed. Attempts that were under way when the circuit opened
            say nothing new, and do not lengthen the pause.

    Returns:
        When the next probe may be made; None where the circuit stays as it is.
    """
    wait = func.least(PROBE_FIRST * func.power(2, func.least(ConnectionRow.circuit_failures, 10)), PROBE_CAP)
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            ConnectionRow.client_fingerprint.is_not_distinct_from(fingerprint),
            or_(ConnectionRow.circuit_opened_at.is_(None), ConnectionRow.circuit_opened_at < began),
        )
        .values(
            circuit_opened_at=func.coalesce(ConnectionRow.circuit_opened_at, now),
            circuit_until=now + wait,
            circuit_code=code,
            circuit_failures=ConnectionRow.circuit_failures + 1,
        )
        .returning(ConnectionRow.circuit_until)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none()


async def take_probe(vault: Vault, *, tenant: str, name: str, now: datetime, until: datetime) -> bool:
    """Whether the caller may make the one call that an open circuit is due; nobody else then may before ``until``.

    Batches take the probe with their claim.
    """
    statement = (
        update(ConnectionRow)
        .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name, ConnectionRow.circuit_until <= now)
        .values(circuit_until=until)
        .returning(ConnectionRow.name)
    )
    async with vault.engine.begin() as connection:
        return (await connection.execute(statement)).scalar_one_or_none() is not None


async def probe_again(vault: Vault, *, tenant: str, name: str, now: datetime) -> None:
    """End an open circuit's pause: the probe was given up before anything was asked."""
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


async def close_circuit(vault: Vault, *, tenant: str, name: str) -> None:
    """Renew a connection's tokens again, without a suspicion: one was renewed."""
    statement = (
        update(ConnectionRow)
        .where(
            ConnectionRow.tenant == tenant,
            ConnectionRow.name == name,
            or_(ConnectionRow.circuit_opened_at.is_not(None), ConnectionRow.suspect_grant.is_not(None)),
        )
        .values(_CLOSED)
    )
    async with vault.engine.begin() as connection:
        await connection.execute(statement)
