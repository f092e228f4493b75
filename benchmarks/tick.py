"""The cost of a tick, by grants stored and due."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from datetime import timedelta
from uuid import uuid4

from benchmarks.stage import TENANT, Result, Stage
from worker.runtime import Runtime
from worker.vault import claims

SMALL, LARGE = 10_000, int(os.environ.get("TICK_GRANTS", "1000000"))
DUE = 200
ROUNDS = 9

# Rows as a sync leaves them, with tokens of the usual size that are never opened here.
FILL = """
INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, access_ciphertext, access_version, refresh_ciphertext,
    refresh_version, expires_at, obtained_at, obtained_from, due_at)
SELECT %s, 'partner', 'auth0|' || n, n::text, 'active', decode(repeat('ab', 300), 'hex'), 1, decode(repeat('cd', 120), 'hex'), 1,
    now() + interval '1 day', now(), 'auth0', now() + interval '12 hours' + n * interval '1 ms'
FROM generate_series(1, %s) n
"""
# Spread over the whole table, as in life.
MAKE_DUE = "UPDATE grants SET due_at = now() - interval '1 minute' WHERE id IN (SELECT (n * (%s / %s))::bigint + 1 FROM generate_series(0, %s) n)"
RESET = "UPDATE grants SET due_at = now() + interval '12 hours', claim_owner = NULL, claimed_at = NULL, claim_until = NULL WHERE claim_owner IS NOT NULL OR due_at <= now()"


def measure(stage: Stage) -> list[Result]:
    """Claim due grants out of many and out of few."""
    times = {size: asyncio.run(_time(stage, size)) for size in (SMALL, LARGE)}
    ratio = times[LARGE][0] / times[SMALL][0]
    return [
        Result(
            f"a tick that claims {DUE} of {LARGE:,}", f"{times[LARGE][0] * 1000:.1f} ms",
            f"{times[SMALL][0] * 1000:.1f} ms of {SMALL:,}", f"{ratio:.2f}", "≤ 1.5", ratio <= 1.5,
        ),
        Result(
            f"a tick that finds nothing due in {LARGE:,}", f"{times[LARGE][1] * 1000:.1f} ms",
            f"{times[SMALL][1] * 1000:.1f} ms of {SMALL:,}", f"{times[LARGE][1] / times[SMALL][1]:.2f}",
        ),
    ]  # fmt: skip


async def _time(stage: Stage, size: int) -> tuple[float, float]:
    stage.empty()
    async with stage.worker() as runtime:  # before there are grants: only then it makes the vault's secrets
        stage.sql("INSERT INTO connections (tenant, name, strategy) VALUES (%s, 'partner', 'oauth2')", TENANT)
        stage.sql(FILL, TENANT, size)
        stage.sql("VACUUM ANALYZE grants")
        idle = [await _tick(runtime, 0) for _ in range(ROUNDS)]
        claiming = []
        for _ in range(ROUNDS):
            stage.sql(MAKE_DUE, size, DUE, DUE - 1)
            claiming.append(await _tick(runtime, DUE))
            stage.sql(RESET)
            stage.sql("VACUUM grants")
    return statistics.median(claiming), statistics.median(idle)


async def _tick(runtime: Runtime, expected: int) -> float:
    now = await runtime.vault.now()
    began = time.perf_counter()
    claimed = await claims.claim_due(
        runtime.vault,
        {(TENANT, "partner"): DUE},
        owner=uuid4(),
        now=now,
        until=now + timedelta(minutes=2),
        limit=DUE,
    )
    took = time.perf_counter() - began
    if len(claimed) != expected:
        raise SystemExit(f"a tick claimed {len(claimed)} grants instead of {expected}")
    return took
