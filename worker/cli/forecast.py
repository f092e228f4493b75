"""What a tenant will cost: arithmetic without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, expm1

from worker.auth0.ratelimit.plans import Plan
from worker.sync.export_reconciliation import MIN_USERS_FOR_EXPORT
from worker.vault.schedule import margin

DAY_SECONDS = 86_400.0

USERS_PER_PAGE = 100
# A keyset page begins with the last user of the one before.
NEW_USERS_PER_PAGE = USERS_PER_PAGE - 1
# Polls of an export job that takes half an hour.
CALLS_PER_EXPORT = 130
LOG_POLLS_PER_DAY = 1440
CONNECTION_SYNCS_PER_DAY = 144
FULL_SCANS_PER_DAY = 24
# A sign-in writes the login and the exchange of its code.
LOG_ENTRIES_PER_LOGIN = 2

# Measured: docs/benchmarks.md, with which tests/unit/test_docs.py compares these.
# Of one worker on a quiet machine, and what one of them takes of Postgres' processor.
RENEWALS_PER_SECOND = 1915.0
POSTGRES_MILLISECONDS_PER_RENEWAL = 0.18
# At the peak, of the whole stack (Postgres, Redis, two workers, beat), and of a further worker.
STACK_MEGABYTES = 392
WORKER_MEGABYTES = 115
# Of one grant whose tokens are as long as Google's, and of its renewal, whole pages after checkpoints included.
GRANT_BYTES = 2413
INDEX_BYTES = 317
RENEWAL_LOG_BYTES = 8921

# The part of the measured rate to plan with: beside its servers and other programs a worker made a quarter of it, real
# providers answer more slowly, and logins come in waves.
USABLE_SHARE = 1 / 8
# A core that is busier lets others wait.
BUSY_SHARE = 0.5

# A renewal leaves two dead rows, and one dead entry in each of five indexes, as its claim writes none.
DEAD_ROWS_PER_RENEWAL = 2
INDEX_ENTRIES_PER_RENEWAL = 5

# docs/operating.md, "Connections to Postgres": of a worker; of the API, `follow` and a command together.
WORKER_CONNECTIONS = 20
OTHER_CONNECTIONS = 45
INTERACTIVE_WORKERS = 1

# As the migrations set them for grants; PostgreSQL documentation, "Automatic Vacuuming".
VACUUM_SCALE_FACTOR = 0.02
VACUUM_THRESHOLD_ROWS = 50
VACUUM_NAP_SECONDS = 60.0
PAGE_BYTES = 8192
# What vacuum may do in a second by default: a cost limit of 200 each two milliseconds, and what a page costs it.
DEFAULT_COST_LIMIT = 200
COST_ROUNDS_PER_SECOND = 500
COST_OF_READ_PAGE = 2
COST_OF_WRITTEN_PAGE = 20

# By default; PostgreSQL documentation, "Write Ahead Log". A checkpoint begins once about half of the size is written
# since the last one, so twice the log of one interval is needed, and half as much again at busy hours.
CHECKPOINT_SECONDS = 300.0
DEFAULT_MAX_WAL_SIZE_MEGABYTES = 1024
INTERVALS_IN_MAX_WAL_SIZE = 3

# How long Auth0 keeps the tenant log; Auth0, "Log Data Retention".
LOG_RETENTION_DAYS = {"free": 1, "essentials": 5, "professional": 10, "enterprise": 30}


@dataclass(frozen=True)
class Workload:
    """A tenant and its users, each with one identity.

    Attributes:
        token_life: of a provider's access token, in seconds.
        share: of each limit, what is left to other programs.
    """

    users: int
    logins_per_day: float
    connections: int
    token_life: float
    share: float


@dataclass(frozen=True)
class DatabaseLoad:
    """What Postgres holds, and what it writes.

    Attributes:
        megabytes: of grants and their indexes.
        log_megabytes_per_day: of write-ahead log, where checkpoints come by time alone.
        max_wal_size_megabytes: with which they do. With less, a renewal logs up to five times as much.
        connections: at the most.
        vacuum_seconds: between two vacuums of the grants; None where nothing is renewed.
        vacuum_cost_limit: by which autovacuum keeps up, with as much again to spare.
    """

    megabytes: float
    log_megabytes_per_day: float
    max_wal_size_megabytes: int
    connections: int
    vacuum_seconds: float | None
    vacuum_cost_limit: int


@dataclass(frozen=True)
class Forecast:
    """What a workload costs.

    Attributes:
        lists_carry_tokens: whether Auth0's lists show tokens, so that a user is not asked for alone.
        full_sync_calls: of the first sync, by group of endpoints.
        full_sync_seconds: what the limit makes of them.
        daily_calls: of incremental sync, by what they are for.
        load: of the day's calls, the busiest limit's part that they take; above 1 they do not fit.
        crawl_calls: what an hourly full scan would take a day instead.
        crawl_load: as ``load``.
        renewals_per_second: at providers, which is no matter of Auth0's limit.
    """

    lists_carry_tokens: bool
    full_sync_calls: Mapping[str, float]
    full_sync_seconds: float
    daily_calls: Mapping[str, float]
    load: float
    crawl_calls: float
    crawl_load: float
    renewals_per_second: float
    workers: int
    cores: int
    megabytes: int
    database: DatabaseLoad
    warnings: tuple[str, ...]


def forecast(plan: Plan, workload: Workload, *, lists_carry_tokens: bool) -> Forecast:
    """Work out what a workload costs on a plan."""
    by_export = workload.users >= MIN_USERS_FOR_EXPORT
    pages, connection_pages = user_pages(workload.users), max(1, ceil(workload.connections / USERS_PER_PAGE))
    by_id = 0 if lists_carry_tokens else workload.users
    full = {"read_users": float(pages + by_id), "connections": float(connection_pages), "other": 1.0}
    polls = LOG_POLLS_PER_DAY * max(
        1, ceil(workload.logins_per_day * LOG_ENTRIES_PER_LOGIN / LOG_POLLS_PER_DAY / USERS_PER_PAGE)
    )
    daily = {
        "log": float(polls),
        "logins": workload.logins_per_day,
        "connections": float(CONNECTION_SYNCS_PER_DAY * connection_pages),
        "reconciliation": float(CALLS_PER_EXPORT if by_export else pages),
    }
    groups = {
        "logs": daily["log"],
        "read_users": daily["logins"] + (0.0 if by_export else daily["reconciliation"]),
        "connections": daily["connections"],
        "other": daily["reconciliation"] if by_export else 0.0,
    }
    hourly_scans = {group: calls * FULL_SCANS_PER_DAY for group, calls in full.items()}
    duration = at_the_limit(plan, full, workload.share)
    load = at_the_limit(plan, groups, workload.share) / DAY_SECONDS
    renewals = workload.users / renewed_every(workload.token_life)
    workers = max(1, ceil(renewals / (RENEWALS_PER_SECOND * USABLE_SHARE)))
    return Forecast(
        lists_carry_tokens=lists_carry_tokens,
        full_sync_calls=full,
        full_sync_seconds=duration,
        daily_calls=daily,
        load=load,
        crawl_calls=sum(hourly_scans.values()),
        crawl_load=at_the_limit(plan, hourly_scans, workload.share) / DAY_SECONDS,
        renewals_per_second=renewals,
        workers=workers,
        cores=workers + _server_cores(renewals),
        megabytes=STACK_MEGABYTES + (workers - 1) * WORKER_MEGABYTES,
        database=database_load(workload.users, renewals, workers),
        warnings=tuple(_warnings(plan, load, duration)),
    )


def _server_cores(renewals_per_second: float) -> int:
    """Return the cores of Postgres, Redis and on-demand work."""
    return max(1, ceil(renewals_per_second * POSTGRES_MILLISECONDS_PER_RENEWAL / 1e3 / BUSY_SHARE))


def database_load(grants: int, renewals_per_second: float, workers: int) -> DatabaseLoad:
    """Work out what renewals cost Postgres."""
    interval, cost_limit = _vacuum(grants, renewals_per_second * DEAD_ROWS_PER_RENEWAL)
    log_megabytes_per_second = renewals_per_second * RENEWAL_LOG_BYTES / 1e6
    return DatabaseLoad(
        megabytes=grants * GRANT_BYTES / 1e6,
        log_megabytes_per_day=log_megabytes_per_second * DAY_SECONDS,
        max_wal_size_megabytes=_max_wal_size(log_megabytes_per_second),
        connections=(workers + INTERACTIVE_WORKERS) * WORKER_CONNECTIONS + OTHER_CONNECTIONS,
        vacuum_seconds=interval,
        vacuum_cost_limit=cost_limit,
    )


def _max_wal_size(log_megabytes_per_second: float) -> int:
    """Return a size in megabytes, rounded up to whole gigabytes."""
    needed = log_megabytes_per_second * CHECKPOINT_SECONDS * INTERVALS_IN_MAX_WAL_SIZE
    return max(1, ceil(needed / DEFAULT_MAX_WAL_SIZE_MEGABYTES)) * DEFAULT_MAX_WAL_SIZE_MEGABYTES


def _vacuum(grants: int, dead_rows_per_second: float) -> tuple[float | None, int]:
    """Return the seconds between two vacuums, and their cost limit."""
    if not dead_rows_per_second:
        return None, DEFAULT_COST_LIMIT
    threshold = VACUUM_THRESHOLD_ROWS + VACUUM_SCALE_FACTOR * grants
    interval = max(VACUUM_NAP_SECONDS, threshold / dead_rows_per_second)
    needed = _vacuum_cost(grants, dead_rows_per_second * interval) / interval / COST_ROUNDS_PER_SECOND
    return interval, max(DEFAULT_COST_LIMIT, ceil(needed * 2 / 100) * 100)


def _vacuum_cost(grants: int, dead_rows: float) -> float:
    """Return what one vacuum costs, in Postgres' units.

    It reads all indexes and the table's pages with dead rows, and writes the pages where it finds some.
    """
    index_pages, table_pages = (
        grants * INDEX_BYTES / PAGE_BYTES,
        grants * (GRANT_BYTES - INDEX_BYTES) / PAGE_BYTES,
    )
    dead_entries = dead_rows / DEAD_ROWS_PER_RENEWAL * INDEX_ENTRIES_PER_RENEWAL
    written = _pages_hit(index_pages, dead_entries) + _pages_hit(table_pages, dead_rows)
    return index_pages * COST_OF_READ_PAGE + written * (COST_OF_READ_PAGE + COST_OF_WRITTEN_PAGE)


def _pages_hit(pages: float, entries: float) -> float:
    """Count pages with at least one of randomly spread entries."""
    return pages * -expm1(-entries / pages) if pages else 0.0


def user_pages(users: int) -> int:
    """Return the pages of a full scan.

    The first is asked for in any case.
    """
    return 1 + ceil(max(0, users - USERS_PER_PAGE) / NEW_USERS_PER_PAGE)


def renewed_every(life: float) -> float:
    """Return the average seconds between two renewals of a token."""
    earlier = margin(timedelta(seconds=life)) * 1.25  # and up to half of it more by jitter
    return life - earlier.total_seconds()


def at_the_limit(plan: Plan, calls: Mapping[str, float], share: float) -> float:
    """Return the least seconds that calls take.

    Groups with limits of their own run side by side.
    """
    by_bucket: dict[str, float] = {}
    for group, number in calls.items():
        bucket = plan.limit_name(group)
        by_bucket[bucket] = by_bucket.get(bucket, 0.0) + number
    return max(
        (number / plan.limits[name].without(share).per_second for name, number in by_bucket.items()),
        default=0.0,
    )


def _warnings(plan: Plan, load: float, duration: float) -> list[str]:
    found = []
    if load > 1:
        found.append(
            f"a day's logins take {load:.1f} times what the limit allows in a day: sync falls behind"
        )
    elif load > 0.5:
        found.append(f"sync takes {load:.0%} of the limit on an average day: at peak hours it falls behind")
    kept = LOG_RETENTION_DAYS.get(plan.name)
    if kept is not None and duration > kept * DAY_SECONDS:
        found.append(
            f"a full sync outlasts the tenant log, which is kept for {kept} d: a second full scan follows it"
        )
    elif duration > DAY_SECONDS:
        found.append("a full sync takes more than a day")
    return found
