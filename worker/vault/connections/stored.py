"""Connections in the vault: what Auth0 shows of them, and what answers have shown of their providers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret
from worker.vault.connections import circuits
from worker.vault.connections.circuits import CIRCUIT_COLUMNS, Circuit
from worker.vault.db.database import Vault
from worker.vault.db.tables import ConnectionRow


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as stored, its options still sealed."""

    tenant: str
    name: str
    strategy: str
    provider: str | None
    problem: str | None
    problem_message: str | None
    options_ciphertext: bytes | None
    options_version: int
    client_fingerprint: bytes | None
    circuit: Circuit
    renew: str
    observed_rotating: bool
    observed_grace: float | None
    observed_life: timedelta | None
    observed_refresh_life: timedelta | None
    missing_since: datetime | None


_STORED = (
    ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.strategy, ConnectionRow.provider, ConnectionRow.problem,
    ConnectionRow.problem_message, ConnectionRow.options_ciphertext, ConnectionRow.options_version,
    ConnectionRow.client_fingerprint, ConnectionRow.renew, ConnectionRow.observed_rotating,
    ConnectionRow.observed_grace, ConnectionRow.observed_life, ConnectionRow.observed_refresh_life,
    ConnectionRow.missing_since,
)  # fmt: skip


def place_of_options(tenant: str, name: str, version: int) -> EncryptionContext:
    """Where a connection's options are sealed for."""
    return EncryptionContext("connections", (tenant, name), "options", version)


def open_options(vault: Vault, stored: StoredConnection) -> Mapping[str, Any] | None:
    """Decrypt what Auth0 last showed of a connection; None where it never showed any options.

    Raises:
        CannotDecrypt: the refresh ring lacks the key, or the ciphertext is out of place.
    """
    if stored.options_ciphertext is None:
        return None
    place = place_of_options(stored.tenant, stored.name, stored.options_version)
    options: Mapping[str, Any] = json.loads(vault.refresh.decrypt(place, stored.options_ciphertext).reveal())
    return options


async def stored(vault: Vault, tenants: Sequence[str], name: str | None = None) -> list[StoredConnection]:
    """Read the connections of these tenants, or the one of this name."""
    statement = (
        select(*_STORED, *CIRCUIT_COLUMNS)
        .where(ConnectionRow.tenant.in_(tenants))
        .order_by(ConnectionRow.tenant, ConnectionRow.name)
    )
    if name is not None:
        statement = statement.where(ConnectionRow.name == name)
    async with vault.engine.connect() as connection:
        return [_stored(row) for row in (await connection.execute(statement)).mappings()]


def _stored(row: RowMapping) -> StoredConnection:
    columns = dict(row)
    circuit = Circuit(**{column.name: columns.pop(column.name) for column in CIRCUIT_COLUMNS})
    return StoredConnection(**columns, circuit=circuit)


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
        "missing_since": None,
    }  # fmt: skip
    if options is not None and not (before and _same_options(vault, before[0], options)):
        version = (before[0].options_version if before else 0) + 1
        sealed = vault.refresh.encrypt(place_of_options(tenant, name, version), Secret(json.dumps(options)))
        columns |= {"options_ciphertext": sealed, "options_version": version}
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
    except CannotDecrypt:
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
    renew: str = "eager",
    now: datetime | None = None,
) -> bool:
    """Record whether a connection's tokens can be renewed, and by which client.

    A client with other credentials or another endpoint than before closes the circuit: a wrong secret heals
    when it is corrected. Grants that slept are woken when all are to be kept fresh again.

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
        columns |= _NOTHING_SEEN
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == stored.tenant, ConnectionRow.name == stored.name)
            .values(columns)
        )
        if stored.renew == "on-read" and renew == "eager":
            await connection.execute(_WAKE, {"tenant": stored.tenant, "name": stored.name})
        if stored.client_fingerprint != fingerprint and stored.circuit.is_open:
            await circuits.spread(connection, stored.tenant, stored.name, now or await vault.now())
    return True


_NOTHING_SEEN: Mapping[str, Any] = {
    "observed_rotating": False, "observed_grace": None, "observed_life": None, "observed_refresh_life": None,
}  # fmt: skip

_WAKE = text("""
UPDATE grants SET due_at = now() + random() * interval '10 minutes'
WHERE tenant = :tenant AND connection = :name AND claim_owner IS NULL AND attempts = 0
    AND due_at IS NOT NULL AND (expires_at IS NULL OR due_at > expires_at)
""")


async def learn(
    vault: Vault,
    *,
    tenant: str,
    name: str,
    rotating: bool = False,
    grace: float | None = None,
    life: timedelta | None = None,
    refresh_life: timedelta | None = None,
) -> None:
    """Keep what answers have shown. Each fact goes one way only: towards rotation, and to the shortest time seen.

    Args:
        rotating: an answer brought another refresh token than the one that was spent.
        grace: seconds after which a spent refresh token was refused.
        life, refresh_life: of the tokens in an answer.
    """
    shortest = {"observed_grace": grace, "observed_life": life, "observed_refresh_life": refresh_life}
    columns: dict[str, Any] = {
        column: func.least(getattr(ConnectionRow, column), value)
        for column, value in shortest.items()
        if value is not None
    }
    if rotating:
        columns["observed_rotating"] = True
    async with vault.engine.begin() as connection:
        await connection.execute(
            update(ConnectionRow)
            .where(ConnectionRow.tenant == tenant, ConnectionRow.name == name)
            .values(columns)
        )
