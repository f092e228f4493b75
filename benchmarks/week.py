"""Size, ticks and write-ahead log over a simulated week of renewals.

Claims and commits are the worker's own; only the clock is simulated, and nobody is called. Vacuum and checkpoints come
when Postgres would begin them by its settings on that clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from benchmarks.processes import postgres_pids
from benchmarks.stage import TENANT, Result, Stage
from token_vault.secret import Secret
from worker.renewal.group_commit import MAX_GROUP
from worker.runtime import Runtime
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim, ObtainedPair
from worker.vault.schedule import margin

GRANTS = int(os.environ.get("WEEK_GRANTS", "10000"))
HOURS = float(os.environ.get("WEEK_HOURS", "6"))
LIFE = timedelta(hours=float(os.environ.get("WEEK_TOKEN_HOURS", "1")))
# Of `grants`, as the migration sets them, and Postgres' own threshold.
VACUUM_SHARE, VACUUM_THRESHOLD = 0.02, 50
CHECKPOINT_MINUTES = int(os.environ.get("WEEK_CHECKPOINT_MINUTES", "5"))
DAY_MINUTES = 24 * 60
TICKS = 15
TICK_GRANTS = 200
# So many are in flight: renewals of a second or two, whatever the number of grants.
CLAIMED_AT_A_TIME = max(8, GRANTS // 2000)

# Tokens as long as Google's, with the version and the context that encryption adds.
FILL = """
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version, refresh_ciphertext,
    refresh_version, expires_at, obtained_at, obtained_from, due_at, user_created_at, observed_access, observed_refresh,
    observed_updated_at, scopes)
SELECT %s, 'partner', 'google-oauth2|' || 10^20::numeric + n, (10^20::numeric + n)::text, 'active', decode(repeat('ab', 424), 'hex'), 1,
    decode(repeat('cd', 292), 'hex'), 1, %s, %s, 'auth0', %s + random() * %s,
    now() - n * interval '1 second', decode(repeat('01', 32), 'hex'), decode(repeat('02', 32), 'hex'), now(),
    ARRAY['openid', 'email', 'https://www.googleapis.com/auth/calendar.readonly']
FROM generate_series(1, %s) n
"""
# CHECKPOINT itself is a superuser's, and nobody logs in as one; to copy a database begins with one.
BEGIN_CHECKPOINT = "CREATE DATABASE checkpointed TEMPLATE template0 STRATEGY file_copy"
# Room for the log between two of these. With less, Postgres begins checkpoints of its own, and writes pages whole anew.
MAX_WAL_SIZE = "32GB"
SIZES = "SELECT pg_table_size('grants'), pg_indexes_size('grants')"
UPDATES = "SELECT pg_stat_force_next_flush(), n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'grants'"
WAL = "SELECT wal_bytes, wal_fpi FROM pg_stat_wal"


@dataclass(frozen=True, slots=True)
class State:
    """What Postgres holds and has written.

    Attributes:
        table, indexes: of the grants, in bytes.
        wal: bytes since the server began.
        tick: seconds of a tick that claims ``TICK_GRANTS``.
    """

    renewals: int
    table: int
    indexes: int
    wal: int
    pages_written_whole: int
    updates: int
    hot_updates: int
    tick: float

    @property
    def size(self) -> int:
        """Bytes of the table with its indexes."""
        return self.table + self.indexes


def measure(stage: Stage) -> list[Result]:
    """Renew every grant as often as its tokens end, and compare the end with the beginning."""
    before, after, week, rate = asyncio.run(_measure(stage))
    size = after.size / before.size
    tick = after.tick / before.tick
    renewals = after.renewals - before.renewals
    wal = (after.wal - before.wal) / renewals
    whole = (after.pages_written_whole - before.pages_written_whole) / renewals
    hot = (after.hot_updates - before.hot_updates) / max(1, after.updates - before.updates)
    return [
        Result(
            f"table and indexes of {GRANTS:,} grants after {HOURS:g} h of renewals",
            f"{after.size / GRANTS:.0f} bytes a grant", f"{before.size / GRANTS:.0f} before", f"{size:.2f}", "≤ 1.2",
            size <= 1.2,
        ),
        Result(
            "… indexes alone", f"{after.indexes / GRANTS:.0f} bytes a grant", f"{before.indexes / GRANTS:.0f} before",
            f"{after.indexes / before.indexes:.2f}",
        ),
        Result(
            f"… a tick that claims {TICK_GRANTS}", f"{after.tick * 1000:.1f} ms", f"{before.tick * 1000:.1f} ms before",
            f"{tick:.2f}", "≤ 1.2", tick <= 1.2,
        ),
        Result("… updates that touch no index (HOT)", f"{hot:.0%}", "", ""),
        Result(f"… write-ahead log of a renewal, with {whole:.1f} whole pages", f"{wal:.0f} bytes", "", ""),
        Result("… a vacuum of the table", f"{statistics.median(week.vacuums) * 1000:.0f} ms", "", ""),
        Result("… claimed and committed by one process", f"{rate:.0f}/s", "", ""),
    ]  # fmt: skip


async def _measure(stage: Stage) -> tuple[State, State, _Week, float]:
    _leave_checkpoints_to_the_clock(stage)
    async with stage.worker() as runtime:
        with psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection:
            tick = await (await _Week.begin(stage, connection, runtime)).tick()
            week = await _Week.begin(stage, connection, runtime)  # anew: ticks leave dead rows
            before = week.look(tick)
            began = time.perf_counter()
            for minute in range(1, round(HOURS * 60) + 1):
                await week.minute()
                if minute % DAY_MINUTES == 0:
                    _show_progress(minute // DAY_MINUTES, week.look(0), before)
            after = week.look(0)
            rate = week.renewals / (time.perf_counter() - began)
            return before, replace(after, tick=await week.tick()), week, rate


def _show_progress(day: int, state: State, before: State) -> None:
    size, renewals = state.size / before.size, state.renewals - before.renewals
    print(f"day {day}: {renewals:,} renewals, {size:.2f} of the size before", file=sys.stderr)


def _leave_checkpoints_to_the_clock(stage: Stage) -> None:
    with (stage.home / "vault/postgres/postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write(f"max_wal_size = {MAX_WAL_SIZE}\n")
    os.kill(postgres_pids(stage)[0], signal.SIGHUP)


class _Week:
    """The simulated clock, and what happens each minute of it."""

    def __init__(self, connection: psycopg.Connection, runtime: Runtime, now: datetime) -> None:
        self._connection, self._runtime = connection, runtime
        self._random = random.Random(7)
        self._dead_rows = self._minutes = 0
        self.now = now
        self.vacuums: list[float] = []
        self.renewals = 0

    @classmethod
    async def begin(cls, stage: Stage, connection: psycopg.Connection, runtime: Runtime) -> _Week:
        """Fill the vault as a sync leaves it."""
        stage.empty()
        stage.sql("TRUNCATE grants CASCADE")  # an emptied index keeps its pages
        stage.sql("INSERT INTO connections (tenant, name, strategy) VALUES (%s, 'partner', 'oauth2')", TENANT)
        now = await runtime.vault.now()
        connection.execute(FILL, (TENANT, now + LIFE, now, now, LIFE - margin(LIFE), GRANTS))
        connection.execute("VACUUM ANALYZE grants")
        return cls(connection, runtime, now)

    async def minute(self) -> None:
        """Renew what is due, and do what Postgres does of itself."""
        self.now += timedelta(minutes=1)
        self._minutes += 1
        while claimed := await self._claim(CLAIMED_AT_A_TIME, self.now):
            await self._store(claimed)
        if self._dead_rows > VACUUM_THRESHOLD + VACUUM_SHARE * GRANTS:
            began = time.perf_counter()
            self._connection.execute("VACUUM grants")
            self.vacuums.append(time.perf_counter() - began)
            self._dead_rows = 0
        if self._minutes % CHECKPOINT_MINUTES == 0:
            self._connection.execute(BEGIN_CHECKPOINT)
            self._connection.execute("DROP DATABASE checkpointed")

    def look(self, tick: float) -> State:
        """Return what there is now."""
        (table, indexes), (wal, whole), (_, updates, hot) = map(self._row, (SIZES, WAL, UPDATES))
        return State(self.renewals, table, indexes, int(wal), whole, updates, hot, tick)

    async def tick(self) -> float:
        """Return the median seconds of ticks that renew grants before their time."""
        ticks = []
        for _ in range(TICKS):
            began = time.perf_counter()
            claimed = await self._claim(TICK_GRANTS, self.now + LIFE)
            ticks.append(time.perf_counter() - began)
            await self._store(claimed)
        return statistics.median(ticks)

    async def _claim(self, limit: int, due_by: datetime) -> list[Claim]:
        return await claims.claim_due(
            self._runtime.vault, {(TENANT, "partner"): limit}, owner=uuid4(), now=self.now,
            until=self.now + timedelta(minutes=2), limit=limit, due_by=due_by,
        )  # fmt: skip

    async def _store(self, claimed: Sequence[Claim]) -> None:
        for first in range(0, len(claimed), MAX_GROUP):
            group = [self._answer(claim) for claim in claimed[first : first + MAX_GROUP]]
            if len(await claims.store_pairs(self._runtime.vault, group)) != len(group):
                raise SystemExit("not every answer was stored")
        self.renewals += len(claimed)
        self._dead_rows += 2 * len(claimed)

    def _answer(self, claim: Claim) -> ObtainedPair:
        pair = TokenPair(Secret("a" * 220), Secret("r" * 103), self.now + LIFE)
        earlier = margin(LIFE) * self._random.uniform(1, 1.5)
        return ObtainedPair(claim, pair, self.now, self.now + LIFE - earlier)

    def _row(self, statement: str) -> tuple[Any, ...]:
        found = self._connection.execute(statement).fetchone()
        assert found
        return found
