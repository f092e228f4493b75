"""Stores what is newer of what Auth0 shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.grants.erase import load_tombstones
from worker.vault.grants.identities import identity_parameters
from worker.vault.grants.relink import relink
from worker.vault.ingest.columns import (
    EMPTY,
    FingerprintedGrant,
    IncomingGrant,
    as_stored,
    identity_columns,
    ingested_columns,
    observed_columns,
    row_key,
)
from worker.vault.ingest.freshness import Incoming, compare_freshness
from worker.vault.ingest.writes import Writes, insert_rows, update_rows
from worker.vault.vault import Vault


@dataclass(slots=True)
class IngestStats:
    """How many grants were new, changed, unchanged or stale.

    A stale one was shown in an older state than before.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    stale: int = 0

    def add(self, other: IngestStats) -> None:
        """Add another tally to this one."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.stale += other.stale


_LOCK_STORED = load(__file__, "lock_stored")


async def ingest(vault: Vault, shown: Sequence[IncomingGrant], *, now: datetime) -> IngestStats:
    """Store what is newer of what Auth0 shows, encrypted.

    New grants are committed first, then changed ones.

    Args:
        shown: at most a few hundred grants, each key once.
        now: the database's time.
    """
    asked = [
        (grant, _fingerprinted(vault, grant)) for grant in shown if grant.pair.access or grant.pair.refresh
    ]
    unknown, known, elsewhere = await _find_changed(vault, asked)
    tally = IngestStats(unchanged=len(asked) - len(unknown) - len(known))
    if elsewhere:
        moves = [(id_, grant.key, grant.updated_at) for (grant, _), id_ in elsewhere]
        moved = await relink(vault, moves, now=now)
        known += [(grant, seen) for (grant, seen), _ in elsewhere if grant.key in moved]
        tally.unchanged -= len(moved)
    writes = Writes()
    buried = await load_tombstones(vault, [grant.key for grant, _ in unknown])
    for grant, seen in unknown:
        _plan_insert(vault, grant, seen, buried.get(grant.key), now, writes, tally)
    if writes.inserts:
        async with vault.statement() as connection:
            lost = await insert_rows(connection, writes.inserts, unknown)
        tally.new -= len(lost)
        known += [(grant, seen) for grant, seen in unknown if grant.key in lost]
    if known:
        await _change(vault, known, tally, now)
    return tally


async def _change(vault: Vault, known: list[FingerprintedGrant], tally: IngestStats, now: datetime) -> None:
    """Update stored grants; their rows stay locked until the commit."""
    writes = Writes()
    async with vault.engine.begin() as connection:
        held = await _held(connection, [grant.key for grant, _ in known])
        for grant, seen in known:
            if row := held.get(grant.key):
                _plan_update(vault, grant, seen, row, now, writes, tally)
        await update_rows(connection, writes)


def _fingerprinted(vault: Vault, grant: IncomingGrant) -> Incoming:
    of, pair = vault.fingerprints.of_secret, grant.pair
    return Incoming(
        access=of(pair.access) if pair.access else None,
        refresh=of(pair.refresh) if pair.refresh else None,
        updated_at=grant.updated_at,
        issued_at=grant.issued_at,
    )


# Most of what a sync is shown is what it was shown before: Postgres picks out the rest, without a lock. One JSON
# parameter stands for the whole page; arrays and rows of parameters cost more to send than the question itself.
_FIND_CHANGED = load(__file__, "find_changed")


async def _find_changed(
    vault: Vault, asked: list[FingerprintedGrant]
) -> tuple[list[FingerprintedGrant], list[FingerprintedGrant], list[tuple[FingerprintedGrant, int]]]:
    """Return the grants that the vault does not hold, those of which Auth0 shows something else than before, and
    those that the vault holds under another user, with their ids.
    """
    rows = [
        identity_columns(grant.key)
        | {
            "n": n, "access": seen.access and seen.access.hex(), "refresh": seen.refresh and seen.refresh.hex(),
            "updated_at": seen.updated_at and seen.updated_at.isoformat(),
            "created_at": grant.user_created_at and grant.user_created_at.isoformat(),
        }
        for n, (grant, seen) in enumerate(asked)
    ]  # fmt: skip
    found = await vault.run(_FIND_CHANGED, {"asked": json.dumps(rows)})
    unknown = [asked[n] for n, is_unknown, elsewhere in found if is_unknown and elsewhere is None]
    known = [asked[n] for n, is_unknown, _ in found if not is_unknown]
    return unknown, known, [(asked[n], elsewhere) for n, _, elsewhere in found if elsewhere is not None]


async def _held(connection: AsyncConnection, keys: Sequence[GrantKey]) -> dict[GrantKey, dict[str, Any]]:
    rows = (await connection.execute(_LOCK_STORED, identity_parameters(keys))).mappings()
    return {row_key(row): row for row in map(dict[str, Any], rows)}


def _plan_insert(
    vault: Vault,
    grant: IncomingGrant,
    shown: Incoming,
    tombstone: Mapping[str, Any] | None,
    now: datetime,
    writes: Writes,
    tally: IngestStats,
) -> None:
    """Decide whether a grant that is not stored is inserted.

    Only a new login brings an erased one back.
    """
    before = {**EMPTY, **(tombstone or {})}
    verdict = compare_freshness(as_stored(before) if tombstone else None, shown, now)
    if verdict.stale:
        tally.stale += 1
    elif not (verdict.access or verdict.refresh):
        tally.unchanged += 1
    else:
        tally.new += 1
        writes.inserts.append(
            ingested_columns(vault, grant, shown, verdict, before, now) | identity_columns(grant.key)
        )


def _plan_update(
    vault: Vault,
    grant: IncomingGrant,
    shown: Incoming,
    row: Mapping[str, Any],
    now: datetime,
    writes: Writes,
    tally: IngestStats,
) -> None:
    """Decide what of a stored grant is updated."""
    verdict = compare_freshness(as_stored(row), shown, now)
    if verdict.stale:
        tally.stale += 1
        return
    if verdict.access or verdict.refresh:
        tally.changed += 1
        writes.updates.append(
            ingested_columns(vault, grant, shown, verdict, row, now) | {"row_id": row["id"]}
        )
        if row["awaited"]:
            writes.awaited.append(row["id"])
        return
    tally.unchanged += 1
    seen = observed_columns(grant, shown, row)
    if any(row[name] != value for name, value in seen.items()):
        writes.touches.append(seen | {"row_id": row["id"]})
