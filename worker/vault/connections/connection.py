"""Connections as the vault stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret, SecretDict
from worker.vault.connections.circuits import CIRCUIT_COLUMNS, Circuit
from worker.vault.db.tables import ConnectionRow
from worker.vault.refusals.refusals import is_suspected
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as stored; its options are encrypted."""

    tenant: str
    name: str
    strategy: str
    provider: str | None
    token_host: str | None
    problem: str | None
    problem_message: str | None
    options_ciphertext: bytes | None
    options_version: int
    client_fingerprint: bytes | None
    client_identity: bytes | None
    client_changed_at: datetime | None
    renewed_at: datetime | None
    is_suspected: bool
    circuit: Circuit
    renew: str
    observed_rotating: bool
    observed_grace: float | None
    observed_life: timedelta | None
    observed_refresh_life: timedelta | None
    missing_since: datetime | None


_STORED = (
    ConnectionRow.tenant, ConnectionRow.name, ConnectionRow.strategy, ConnectionRow.provider, ConnectionRow.token_host,
    ConnectionRow.problem,
    ConnectionRow.problem_message, ConnectionRow.options_ciphertext, ConnectionRow.options_version,
    ConnectionRow.client_fingerprint, ConnectionRow.client_identity, ConnectionRow.client_changed_at,
    ConnectionRow.renewed_at, is_suspected().label("is_suspected"), ConnectionRow.renew, ConnectionRow.observed_rotating,
    ConnectionRow.observed_grace, ConnectionRow.observed_life, ConnectionRow.observed_refresh_life,
    ConnectionRow.missing_since,
)  # fmt: skip


def options_context(tenant: str, name: str, version: int) -> EncryptionContext:
    """Return the context of a connection's options."""
    return EncryptionContext("connections", (tenant, name), "options", version)


def decrypt_options(vault: Vault, stored: StoredConnection) -> Mapping[str, Any] | None:
    """Decrypt a connection's options; None if there are none.

    Raises:
        CannotDecrypt: the refresh ring lacks the key, or the ciphertext belongs to another context.
    """
    if stored.options_ciphertext is None:
        return None
    context = options_context(stored.tenant, stored.name, stored.options_version)
    options: Mapping[str, Any] = json.loads(
        vault.refresh.decrypt(context, stored.options_ciphertext).reveal(), object_hook=SecretDict
    )
    return options


async def load_connections(
    vault: Vault, tenants: Sequence[str], name: str | None = None
) -> list[StoredConnection]:
    """Load the tenants' connections, or the one of this name."""
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


async def store_connection(
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
    """Store a connection as Auth0 shows it.

    Absent options never replace the stored ones. If another sync stores options at the same time, this one is repeated.
    """
    columns: dict[str, Any] = {
        "auth0_id": auth0_id, "strategy": strategy, "notes": list(notes), "synced_at": now,
        "missing_since": None,
    }  # fmt: skip
    while not await _store(vault, tenant, name, columns, options):
        pass


async def _store(
    vault: Vault, tenant: str, name: str, columns: Mapping[str, Any], options: Mapping[str, Any] | None
) -> bool:
    """Store a connection, unless its options change meanwhile."""
    before = await load_connections(vault, [tenant], name)
    values, condition = dict(columns), None
    if options is not None and not (before and _same_options(vault, before[0], options)):
        replaced = before[0].options_version if before else 0
        context = options_context(tenant, name, replaced + 1)
        ciphertext = vault.refresh.encrypt(context, Secret(json.dumps(options)))
        values |= {"options_ciphertext": ciphertext, "options_version": replaced + 1}
        condition = ConnectionRow.options_version == replaced
    statement = insert(ConnectionRow).values(tenant=tenant, name=name, **values)
    async with vault.engine.begin() as connection:
        stored = await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[ConnectionRow.tenant, ConnectionRow.name], set_=values, where=condition
            ).returning(ConnectionRow.name)
        )
        return stored.first() is not None


def _same_options(vault: Vault, before: StoredConnection, options: Mapping[str, Any]) -> bool:
    try:
        return decrypt_options(vault, before) == options
    except CannotDecrypt:
        return False  # stored options that cannot be decrypted are replaced by Auth0's
