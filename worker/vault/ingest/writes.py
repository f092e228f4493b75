"""Writes what an ingest decided."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.db.tables import GrantRow
from worker.vault.ingest.columns import OBSERVED_COLUMNS, FingerprintedGrant, row_key


@dataclass(slots=True)
class Writes:
    """What is to be written.

    Columns of new rows, of changed ones, and of those that were only observed; and whose waiters to wake.
    """

    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    touches: list[dict[str, Any]] = field(default_factory=list)
    awaited: list[int] = field(default_factory=list)


_INSERT = load(__file__, "insert_grants")
_INSERTED = (
    "tenant", "connection", "user_id", "provider_user_id", "state", "reason", "access_ciphertext", "access_version",
    "refresh_ciphertext", "refresh_version", "expires_at", "refresh_expires_at", "scopes", "extra_ciphertext", "obtained_at",
    "obtained_from", *OBSERVED_COLUMNS, "due_at",
)  # fmt: skip


def _plain(name: str, value: object) -> object:
    """Return a column's value in JSON.

    Ciphertexts are text already; fingerprints become hexadecimal digits.
    """
    if isinstance(value, bytes):
        return value.decode() if name.endswith("_ciphertext") else value.hex()
    return value.isoformat() if isinstance(value, datetime) else value


async def insert_rows(
    connection: AsyncConnection, inserts: list[dict[str, Any]], unknown: list[FingerprintedGrant]
) -> set[GrantKey]:
    """Insert new grants.

    Returns:
        The keys that another sync has inserted at the same time.
    """
    strategies = {grant.key: grant.strategy for grant, _ in unknown}
    rows = [
        {name: _plain(name, columns[name]) for name in _INSERTED} | {"strategy": strategies[row_key(columns)]}
        for columns in inserts
    ]
    inserted = (await connection.execute(_INSERT, {"rows": json.dumps(rows)})).mappings()
    return set(strategies) - {row_key(dict(row)) for row in inserted}


async def update_rows(connection: AsyncConnection, writes: Writes) -> None:
    """Update rows that are locked."""
    for columns in writes.updates:
        row_id = columns.pop("row_id")
        await connection.execute(update(GrantRow).where(GrantRow.id == row_id).values(columns))
    if writes.touches:
        await connection.execute(
            update(GrantRow.__table__)  # type: ignore[arg-type]
            .where(GrantRow.id == bindparam("row_id"))
            .values({name: bindparam(name) for name in OBSERVED_COLUMNS}),
            writes.touches,
        )
