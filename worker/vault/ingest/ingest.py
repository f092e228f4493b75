"""Stores those of Auth0's tokens that are newer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.grant_key import GrantKey
from worker.vault.db.arrays import hex_array
from worker.vault.db.sql import load
from worker.vault.grants.erase import load_tombstones
from worker.vault.grants.identities import identity_parameters
from worker.vault.grants.relink import relink
from worker.vault.ingest.columns import (
    EMPTY,
    INGESTED_COLUMNS,
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
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault
from worker.vault.wakeups import wake


@dataclass(slots=True)
class IngestStats:
    """How many grants were new, changed, unchanged or stale.

    A grant is stale if Auth0 showed an older state of it than before.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    stale: int = 0

    def add(self, other: IngestStats) -> None:
        """Add the counts of another ingest."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.stale += other.stale


_LOCK_STORED = load(__file__, "lock_stored")


async def ingest(vault: Vault, grants: Sequence[IncomingGrant], *, now: datetime) -> IngestStats:
    """Store those of Auth0's tokens that are newer, encrypted.

    New grants are committed first, then changed ones.

    Args:
        grants: as Auth0 shows them; at most a few hundred, each key once.
        now: the database's time.
    """
    observed = [
        (grant, _fingerprint(vault, grant)) for grant in grants if grant.pair.access or grant.pair.refresh
    ]
    changed = await _find_changed(vault, observed)
    unknown, known, elsewhere = changed.unknown, changed.known, changed.elsewhere
    stats = IngestStats(unchanged=len(observed) - len(unknown) - len(known))
    if elsewhere:
        moves = [(id_, grant.key, grant.updated_at) for (grant, _), id_ in elsewhere]
        moved = await relink(vault, moves, now=now)
        known += [(grant, incoming) for (grant, incoming), _ in elsewhere if grant.key in moved]
        stats.unchanged -= len(moved)
    writes = Writes()
    tombstones = (
        await load_tombstones(vault, [grant.key for grant, _ in unknown]) if changed.has_tombstones else {}
    )
    for grant, incoming in unknown:
        _plan_insert(vault, grant, incoming, tombstones.get(grant.key), now, writes, stats)
    if writes.inserts and (conflicting := await insert_rows(vault, writes.inserts)):
        stats.new -= len(conflicting)
        # Another sync has inserted them meanwhile, perhaps under another user: compared again, they are found.
        stats.add(await ingest(vault, [grant for grant, _ in unknown if grant.key in conflicting], now=now))
    if known:
        await _update(vault, known, stats, now)
    return stats


async def _update(vault: Vault, known: list[FingerprintedGrant], stats: IngestStats, now: datetime) -> None:
    """Update stored grants; their rows stay locked until the commit."""
    writes = Writes()
    async with vault.engine.begin() as connection:
        stored = await _lock_stored(connection, [grant.key for grant, _ in known])
        for grant, incoming in known:
            if row := stored.get(grant.key):
                _plan_update(vault, grant, incoming, row, now, writes, stats)
        await update_rows(connection, writes)
    await wake(vault, writes.awaited)


def _fingerprint(vault: Vault, grant: IncomingGrant) -> Incoming:
    fingerprint, pair = vault.fingerprints.of_secret, grant.pair
    return Incoming(
        access=fingerprint(pair.access) if pair.access else None,
        refresh=fingerprint(pair.refresh) if pair.refresh else None,
        updated_at=grant.updated_at,
        issued_at=grant.issued_at,
    )


_FIND_CHANGED = load(__file__, "find_changed")


@dataclass(frozen=True, slots=True)
class _Changed:
    """What differs from the stored grants.

    Attributes:
        unknown: grants that are not stored.
        known: grants that Auth0 shows differently than before.
        elsewhere: grants that are stored under another user, with the ids of their rows.
        has_tombstones: whether any grant was erased; says nothing if no grant differs.
    """

    unknown: list[FingerprintedGrant]
    known: list[FingerprintedGrant]
    elsewhere: list[tuple[FingerprintedGrant, int]]
    has_tombstones: bool


async def _find_changed(vault: Vault, grants: list[FingerprintedGrant]) -> _Changed:
    """Find the grants that are new, changed or relinked."""
    shown = [incoming for _, incoming in grants]
    values = identity_parameters(
        [grant.key for grant, _ in grants],
        updated_at=[incoming.updated_at for incoming in shown],
        created_at=[grant.user_created_at for grant, _ in grants],
    )
    values["access"] = hex_array([incoming.access for incoming in shown])
    values["refresh"] = hex_array([incoming.refresh for incoming in shown])
    found = await KeptConnection(vault).run(_FIND_CHANGED, values)
    return _Changed(
        [grants[position] for position, is_unknown, row_id, _ in found if is_unknown and row_id is None],
        [grants[position] for position, is_unknown, _, _ in found if not is_unknown],
        [(grants[position], row_id) for position, _, row_id, _ in found if row_id is not None],
        has_tombstones=bool(found) and found[0][3],
    )


async def _lock_stored(
    connection: AsyncConnection, keys: Sequence[GrantKey]
) -> dict[GrantKey, dict[str, Any]]:
    rows = (await connection.execute(_LOCK_STORED, identity_parameters(keys))).mappings()
    return {row_key(row): row for row in map(dict[str, Any], rows)}


def _plan_insert(
    vault: Vault,
    grant: IncomingGrant,
    incoming: Incoming,
    tombstone: Mapping[str, Any] | None,
    now: datetime,
    writes: Writes,
    stats: IngestStats,
) -> None:
    """Decide whether to insert a grant that is not stored.

    An erased grant is inserted again only after a new login.
    """
    before = {**EMPTY, **(tombstone or {})}
    freshness = compare_freshness(as_stored(before) if tombstone else None, incoming, now)
    if freshness.stale:
        stats.stale += 1
    elif not (freshness.access or freshness.refresh):
        stats.unchanged += 1
    else:
        stats.new += 1
        columns = ingested_columns(vault, grant, incoming, freshness, before, now)
        columns.update(identity_columns(grant.key), strategy=grant.strategy)
        writes.inserts.append(columns)


def _plan_update(
    vault: Vault,
    grant: IncomingGrant,
    incoming: Incoming,
    row: Mapping[str, Any],
    now: datetime,
    writes: Writes,
    stats: IngestStats,
) -> None:
    """Decide what to update of a stored grant."""
    freshness = compare_freshness(as_stored(row), incoming, now)
    if freshness.stale:
        stats.stale += 1
        return
    if freshness.access or freshness.refresh:
        stats.changed += 1
        columns = ingested_columns(vault, grant, incoming, freshness, row, now)
        changed = {name: columns[name] for name in INGESTED_COLUMNS if name in columns}
        writes.updates.append(changed | {"row_id": row["id"]})
        if row["awaited"]:
            writes.awaited.append(row["id"])
        return
    stats.unchanged += 1
    writes.touches.append(observed_columns(grant, incoming, row) | {"row_id": row["id"]})
