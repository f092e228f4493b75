"""Writes the rows that an ingest has decided on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.vault.db.arrays import hex_array, text_array, time_array
from worker.vault.db.sql import load
from worker.vault.db.tables import GrantRow
from worker.vault.ingest.columns import OBSERVED_COLUMNS, row_key
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault


@dataclass(slots=True)
class Writes:
    """The rows to write.

    Attributes:
        inserts: columns of new rows.
        updates: columns of changed rows.
        touches: columns of rows that were only observed.
        awaited: ids of grants whose waiting readers have to be woken.
    """

    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    touches: list[dict[str, Any]] = field(default_factory=list)
    awaited: list[int] = field(default_factory=list)


_INSERT = load(__file__, "insert_grants")
# Columns of a new row by their type in Python.
_TEXTS = (
    "strategy", "tenant", "connection", "user_id", "provider_user_id", "state", "reason", "obtained_from",
)  # fmt: skip
_NUMBERS = ("access_version", "refresh_version")
_CIPHERTEXTS = ("access_ciphertext", "refresh_ciphertext", "extra_ciphertext")
_FINGERPRINTS = ("observed_access", "observed_refresh")
_TIMES = (
    "expires_at", "refresh_expires_at", "obtained_at", "observed_updated_at", "user_created_at", "due_at", "consented_at",
)  # fmt: skip


def insert_parameters(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns of new rows as arrays.

    Ciphertexts are already text.
    """
    named = (*_TEXTS, *_NUMBERS, *_CIPHERTEXTS, *_FINGERPRINTS, *_TIMES, "scopes")
    columns = {name: [row[name] for row in rows] for name in named}
    scopes = [None if value is None else text_array(value) for value in columns["scopes"]]
    return (
        {name: text_array(columns[name]) for name in _TEXTS}
        | {name: text_array(list(map(str, columns[name]))) for name in _NUMBERS}
        | {name: text_array([value and value.decode() for value in columns[name]]) for name in _CIPHERTEXTS}
        | {name: hex_array(columns[name]) for name in _FINGERPRINTS}
        | {name: time_array(columns[name]) for name in _TIMES}
        | {"scopes": text_array(scopes)}
    )


async def insert_rows(vault: Vault, inserts: list[dict[str, Any]]) -> set[GrantKey]:
    """Insert new grants.

    Returns:
        The keys whose identity another sync has inserted meanwhile, under this user or another.
    """
    rows = await KeptConnection(vault).run(_INSERT, insert_parameters(inserts))
    return {*map(row_key, inserts)} - {GrantKey(*row) for row in rows}


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
