"""What happened: sync runs and renewals by the minute. For ``status`` and dashboards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from worker.vault.db.database import Vault
from worker.vault.db.tables import RenewalCount, SyncRun
from worker.vault.ingest.take import IngestStats

KEEP_COUNTS = timedelta(days=7)
KEEP_RUNS = timedelta(days=30)


async def count_renewals(
    vault: Vault, outcomes: Mapping[tuple[str, str, str], int], *, now: datetime
) -> None:
    """Add to the counts of this minute, by tenant, connection and outcome."""
    if not outcomes:
        return
    minute = now.replace(second=0, microsecond=0)
    statement = insert(RenewalCount).values(
        [
            {"minute": minute, "tenant": tenant, "connection": name, "outcome": outcome, "count": count}
            for (tenant, name, outcome), count in sorted(outcomes.items())
        ]
    )
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["minute", "tenant", "connection", "outcome"],
                set_={"count": RenewalCount.count + statement.excluded.count},
            )
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sync run has come to so far.

    Attributes:
        seen: users read.
        failed: entries that could not be read.
        gone: grants whose identity Auth0 does not have any more.
        stats: what became of the grants that were shown.
    """

    seen: int = 0
    failed: int = 0
    gone: int = 0
    stats: IngestStats = field(default_factory=IngestStats)


async def begin_run(vault: Vault, *, tenant: str, scope: str, now: datetime) -> int:
    """Note that a sync begins; returns the run's id."""
    async with vault.engine.begin() as connection:
        run = await connection.execute(
            insert(SyncRun).values(tenant=tenant, scope=scope, started_at=now).returning(SyncRun.id)
        )
        return run.scalar_one()


async def note_sweep(vault: Vault, *, tenant: str, began: datetime, gone: int, error: str | None) -> None:
    """Record what a sweep erased, or why it did not."""
    ended = await vault.now()
    statement = insert(SyncRun).values(
        tenant=tenant,
        scope="sweep",
        started_at=began,
        finished_at=ended,
        complete=error is None,
        gone=gone,
        error=error,
    )
    await vault.run(statement)


async def resume_run(vault: Vault, run_id: int) -> tuple[datetime, Counts] | None:
    """Note that a run that was stopped is gone on with.

    Returns:
        When it began, and what it had come to; None where it is not recorded any more.
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
    return row.started_at, Counts(
        row.seen, row.failed, row.gone, IngestStats(row.new, row.changed, row.unchanged, row.stale)
    )


async def began(vault: Vault, run_id: int) -> datetime | None:
    """When a run began; None where it is not recorded any more."""
    async with vault.engine.connect() as connection:
        found = await connection.execute(select(SyncRun.started_at).where(SyncRun.id == run_id))
        return found.scalar_one_or_none()


async def update_run(
    vault: Vault,
    run_id: int,
    counts: Counts,
    *,
    finished_at: datetime | None = None,
    complete: bool = False,
    notes: Sequence[str] = (),
    error: str | None = None,
) -> None:
    """Note how far a sync is, or how it ended."""
    values = asdict(counts)
    values |= values.pop("stats") | {
        "finished_at": finished_at, "complete": complete, "notes": list(notes), "error": error,
    }  # fmt: skip
    async with vault.engine.begin() as connection:
        await connection.execute(update(SyncRun).where(SyncRun.id == run_id).values(values))


async def forget_old(vault: Vault, *, now: datetime) -> None:
    """Delete counts and runs past their keeping time."""
    async with vault.engine.begin() as connection:
        await connection.execute(delete(RenewalCount).where(RenewalCount.minute < now - KEEP_COUNTS))
        await connection.execute(delete(SyncRun).where(SyncRun.started_at < now - KEEP_RUNS))


async def status(vault: Vault, tenants: Sequence[str]) -> dict[str, Any]:
    """How the vault is: grants by state, connections, each tenant's last full sync and last look for changes, renewals."""
    values = {"tenants": list(tenants)}
    async with vault.engine.connect() as connection:
        grants = await connection.execute(text(_GRANTS), values)
        connections = await connection.execute(text(_CONNECTIONS), values)
        full = await connection.execute(text(_LAST_RUNS), values | {"scope": "all"})
        changes = await connection.execute(text(_LAST_RUNS), values | {"scope": "changes"})
        renewals = await connection.execute(text(_RENEWALS), values)
        events = await connection.execute(text(_EVENTS), values)
        return {
            "grants": {state: count for state, count in grants},  # noqa: C416  # rows are not pairs to dict()
            "connections": _connections([dict(row) for row in connections.mappings()]),
            "last_sync": [dict(row) for row in full.mappings()],
            "last_changes": [dict(row) for row in changes.mappings()],
            "renewals": _renewals([dict(row) for row in renewals.mappings()]),
            "events": dict(events.mappings().one()),
        }


_GRANTS = (
    "SELECT state, count(*) FROM token_status WHERE tenant = ANY(:tenants) GROUP BY state ORDER BY state"
)

_CONNECTIONS = """
SELECT c.tenant, c.name, c.strategy, c.provider, c.problem, c.problem_message, c.notes, c.circuit_code, c.circuit_blame,
    c.circuit_opened_at, c.circuit_until, s.state, s.grants, s.next_expiry
FROM connections c
LEFT JOIN (
    SELECT tenant, connection, state, count(*) AS grants, min(expires_at) FILTER (WHERE expires_at > now()) AS next_expiry
    FROM token_status GROUP BY tenant, connection, state
) s ON s.tenant = c.tenant AND s.connection = c.name
WHERE c.tenant = ANY(:tenants)
ORDER BY c.tenant, c.name, s.state
"""

_LAST_RUNS = """
SELECT run.* FROM unnest(CAST(:tenants AS text[])) AS named (tenant) CROSS JOIN LATERAL (
    SELECT tenant, scope, started_at, finished_at, seen, new, changed, unchanged, stale, gone, failed, resumed, notes, error
    FROM sync_runs WHERE tenant = named.tenant AND scope = :scope ORDER BY started_at DESC LIMIT 1
) run ORDER BY run.tenant
"""

_RENEWALS = """
SELECT outcome, sum(count)::bigint AS last_hour,
    coalesce(sum(count) FILTER (WHERE minute = date_trunc('minute', now()) - interval '1 minute'), 0)::bigint AS last_minute
FROM renewal_counts WHERE tenant = ANY(:tenants) AND minute > now() - interval '1 hour' GROUP BY outcome ORDER BY outcome
"""


_EVENTS = """
SELECT count(*) FILTER (WHERE d.state = 'pending') AS undelivered, count(*) FILTER (WHERE d.state = 'failed') AS failed
FROM deliveries d JOIN outbox e ON e.id = d.event_id WHERE d.state <> 'delivered' AND e.tenant = ANY(:tenants)
"""


def _connections(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        columns = dict(row)
        state, count, expiry = columns.pop("state"), columns.pop("grants"), columns.pop("next_expiry")
        connection = found.setdefault(
            (row["tenant"], row["name"]), columns | {"grants": {}, "next_expiry": None}
        )
        if state is not None:
            connection["grants"][state] = count
        if expiry is not None and (connection["next_expiry"] is None or expiry < connection["next_expiry"]):
            connection["next_expiry"] = expiry
    return list(found.values())


def _renewals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    per_minute: Counter[str] = Counter({row["outcome"]: row["last_minute"] for row in rows})
    last_hour: Counter[str] = Counter({row["outcome"]: row["last_hour"] for row in rows})
    return {
        "per_minute": per_minute["renewed"],
        "last_minute": dict(+per_minute),
        "last_hour": dict(+last_hour),
    }


async def last_complete(vault: Vault, tenant: str, scope: str) -> tuple[datetime, int] | None:
    """When the last run of this scope that came to its end began, and how many users it saw."""
    statement = (
        select(SyncRun.started_at, SyncRun.seen)
        .where(SyncRun.tenant == tenant, SyncRun.scope == scope, SyncRun.complete)
        .order_by(SyncRun.started_at.desc())
        .limit(1)
    )
    async with vault.engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else (row.started_at, row.seen)


async def last_began(vault: Vault, tenant: str, scope: str) -> datetime | None:
    """When the last sync of this scope began; a sync of everything counts for the connections too."""
    scopes = ["all", "connections"] if scope == "connections" else [scope]
    statement = select(func.max(SyncRun.started_at)).where(
        SyncRun.tenant == tenant, SyncRun.scope.in_(scopes)
    )
    async with vault.engine.connect() as connection:
        return (await connection.execute(statement)).scalar_one()


async def failures(vault: Vault, tenant: str, scope: str) -> tuple[int, datetime | None]:
    """How many runs of this scope have failed since one came to its end, and when the last did.

    One that was killed, or that is gone on with, has not failed.
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
