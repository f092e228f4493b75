"""Sync runs: their counts, and how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from worker.vault.db.tables import SyncRun
from worker.vault.ingest.ingest import IngestStats
from worker.vault.vault import Vault

RUN_RETENTION = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class SyncRunCounts:
    """The counts of a sync run so far.

    Attributes:
        seen: users read.
        failed: entries that could not be read.
        gone: grants whose identity Auth0 no longer has.
        stats: how the users' grants were ingested.
    """

    seen: int = 0
    failed: int = 0
    gone: int = 0
    stats: IngestStats = field(default_factory=IngestStats)


async def begin_run(vault: Vault, *, tenant: str, scope: str, now: datetime) -> int:
    """Record that a sync begins; return the run's id."""
    async with vault.engine.begin() as connection:
        run = await connection.execute(
            insert(SyncRun).values(tenant=tenant, scope=scope, started_at=now).returning(SyncRun.id)
        )
        return run.scalar_one()


async def record_sweep(
    vault: Vault, *, tenant: str, started_at: datetime, gone: int, error: str | None
) -> None:
    """Record what a sweep erased, or why it did not."""
    ended = await vault.now()
    statement = insert(SyncRun).values(
        tenant=tenant,
        scope="sweep",
        started_at=started_at,
        finished_at=ended,
        complete=error is None,
        gone=gone,
        error=error,
    )
    await vault.run(statement)


async def resume_run(vault: Vault, run_id: int) -> tuple[datetime, SyncRunCounts] | None:
    """Record that a stopped run is resumed.

    Returns:
        When it began, and its counts; None if it is no longer recorded.
    """
    statement = (
        update(SyncRun)
        .where(SyncRun.id == run_id)
        .values(resumed=SyncRun.resumed + 1, finished_at=None, error=None)
        .returning(
            SyncRun.started_at, SyncRun.seen, SyncRun.failed, SyncRun.gone, SyncRun.new, SyncRun.changed,
            SyncRun.unchanged, SyncRun.stale,
        )
    )  # fmt: skip
    async with vault.engine.begin() as connection:
        row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    return row.started_at, SyncRunCounts(
        row.seen, row.failed, row.gone, IngestStats(row.new, row.changed, row.unchanged, row.stale)
    )


async def started_at(vault: Vault, run_id: int) -> datetime | None:
    """Return when a run began, if it is recorded."""
    async with vault.engine.connect() as connection:
        found = await connection.execute(select(SyncRun.started_at).where(SyncRun.id == run_id))
        return found.scalar_one_or_none()


async def update_run(
    vault: Vault,
    run_id: int,
    counts: SyncRunCounts,
    *,
    finished_at: datetime | None = None,
    complete: bool = False,
    notes: Sequence[str] = (),
    error: str | None = None,
) -> None:
    """Record how far a sync is, or how it ended."""
    values = asdict(counts)
    values |= values.pop("stats") | {
        "finished_at": finished_at, "complete": complete, "notes": list(notes), "error": error,
    }  # fmt: skip
    async with vault.engine.begin() as connection:
        await connection.execute(update(SyncRun).where(SyncRun.id == run_id).values(values))


async def delete_old(vault: Vault, *, now: datetime) -> None:
    """Delete runs past their retention."""
    await vault.run(delete(SyncRun).where(SyncRun.started_at < now - RUN_RETENTION))


async def last_complete(vault: Vault, tenant: str, scope: str) -> tuple[datetime, int] | None:
    """Return a scope's last complete run: its beginning and users."""
    statement = (
        select(SyncRun.started_at, SyncRun.seen)
        .where(SyncRun.tenant == tenant, SyncRun.scope == scope, SyncRun.complete)
        .order_by(SyncRun.started_at.desc())
        .limit(1)
    )
    async with vault.engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else (row.started_at, row.seen)


async def last_started(vault: Vault, tenant: str, scope: str) -> datetime | None:
    """Return when the last sync of this scope began.

    A sync of all users also counts as one of the connections.
    """
    scopes = ["all", "connections"] if scope == "connections" else [scope]
    statement = select(func.max(SyncRun.started_at)).where(
        SyncRun.tenant == tenant, SyncRun.scope.in_(scopes)
    )
    async with vault.engine.connect() as connection:
        return (await connection.execute(statement)).scalar_one()


async def failures(vault: Vault, tenant: str, scope: str) -> tuple[int, datetime | None]:
    """Count a scope's failed runs since its last complete one.

    A run that was killed, or that is resumed, has not failed.

    Returns:
        Their number, and when the last of them ended.
    """
    last_complete = (
        select(func.max(SyncRun.started_at))
        .where(SyncRun.tenant == tenant, SyncRun.scope == scope, SyncRun.complete)
        .scalar_subquery()
    )
    statement = select(func.count(), func.max(SyncRun.finished_at)).where(
        SyncRun.tenant == tenant,
        SyncRun.scope == scope,
        ~SyncRun.complete,
        SyncRun.finished_at.is_not(None),
        SyncRun.started_at > func.coalesce(last_complete, text("'-infinity'")),
    )
    async with vault.engine.connect() as connection:
        count, last = (await connection.execute(statement)).one()
    return count, last
