"""Users per second in a full sync, against a loop."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx

from benchmarks.stage import TENANT, Result, Stage
from worker.runtime import Runtime

USERS = 5000
ROUNDS = 3


def measure(stage: Stage) -> list[Result]:
    """Sync into an empty vault, then again with nothing changed."""
    stage.add_users(USERS)
    return asyncio.run(_measure(stage))


async def _measure(stage: Stage) -> list[Result]:
    first, again, bare = [], [], []
    async with stage.worker() as runtime:
        for _ in range(ROUNDS):
            bare.append(await _pages(stage))
            stage.sql("TRUNCATE grants, connections CASCADE")
            first.append(await _sync(runtime))
            again.append(await _sync(runtime))
    pages = statistics.median(bare)
    return [
        Result(
            f"users a second, full sync ({what})", f"{rate:.0f}/s", f"{pages:.0f}/s bare page loop",
            f"{rate / pages:.2f}", f"≥ {wanted}", rate / pages >= wanted,
        )
        for what, rate, wanted in (
            ("all new", statistics.median(first), 0.3), ("none changed", statistics.median(again), 0.5),
        )
    ]  # fmt: skip


async def _sync(runtime: Runtime) -> float:
    sync = await runtime.tenant_sync(TENANT)
    began = time.perf_counter()
    report = await sync.sync_all()
    if report.seen != USERS or not report.ok:
        raise SystemExit(f"the sync did not see every user: {report}")
    return USERS / (time.perf_counter() - began)


async def _pages(stage: Stage) -> float:
    """Read page after page, as a user would write it."""
    emulation = stage.emulation
    async with httpx.AsyncClient(base_url=emulation.base_url, timeout=60) as http:
        grant = {
            "grant_type": "client_credentials", "client_id": emulation.client_id,
            "client_secret": emulation.client_secret, "audience": emulation.audience,
        }  # fmt: skip
        token = (await http.post("/oauth/token", json=grant)).raise_for_status().json()["access_token"]
        seen, page, began = 0, 0, time.perf_counter()
        while seen < USERS:
            answer = await http.get(
                "/api/v2/users",
                params={"per_page": 100, "page": page, "include_totals": "true", "sort": "created_at:1"},
                headers={"Authorization": f"Bearer {token}"},
            )
            seen += len(answer.raise_for_status().json()["users"])
            page += 1
        return seen / (time.perf_counter() - began)
