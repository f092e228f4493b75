"""A process that syncs the emulated tenant by its clock."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from emulators.client import Emulation
from token_vault.secret import Secret
from worker.auth0 import PLANS, ManagementClient, RateLimitBudget
from worker.erasure import Eraser
from worker.runtime import Runtime, credentials_of, open_runtime
from worker.settings import Deletion, load
from worker.sync.tenant_sync import TenantSync
from worker.sync.token_store import VaultTokenStore

REPOSITORY = Path(__file__).parents[2]
MINUTES_AN_HOUR = 60


class EmulatedTime:
    """The tenant's clock, which runs faster than ours.

    Rate limits go by it, and waits are shorter by its speed.
    """

    def __init__(self, tenant: Emulation, speed: float) -> None:
        self._speed, self._began, self._at = speed, tenant.now(), time.monotonic()

    def epoch(self) -> float:
        return self._began + (time.monotonic() - self._at) * self._speed

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.epoch(), UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)


@asynccontextmanager
async def opened(
    tenant: Emulation, plan: str, speed: float
) -> AsyncIterator[tuple[Runtime, ManagementClient, EmulatedTime]]:
    """Open the vault, and a client with the plan's limits."""
    clock = EmulatedTime(tenant, speed)
    async with open_runtime(load()) as runtime:
        credentials = credentials_of(runtime.settings, "default")
        budget = RateLimitBudget(
            "default",
            PLANS[plan],
            share=0,
            redis_url=Secret(os.environ["REDIS_URL"]),
            clock=clock.utc,
            sleep=clock.sleep,
        )
        store = VaultTokenStore(runtime.vault, "default", credentials)
        async with ManagementClient(
            credentials, store, clock=clock.utc, sleep=clock.sleep, budget=budget
        ) as client:
            yield runtime, client, clock


async def work(what: str, base_url: str, plan: str, speed: float) -> dict[str, object]:
    """Do one part; print its seconds by the tenant's clock."""
    with Emulation.at(base_url) as tenant:
        async with opened(tenant, plan, speed) as (runtime, client, clock):
            sync = TenantSync("default", runtime.vault, runtime.connections, client)
            erasure = Eraser(
                "default", runtime.vault, runtime.connections, client, runtime.http, Deletion(settle=0)
            )
            began = clock.epoch()
            if what == "scan":
                report = await sync.sync_all()
            elif what == "settle":
                for _ in range(3):
                    report = await sync.sync_changes()
                    await erasure.sweep(anyway=True)
            else:
                for minute in range(MINUTES_AN_HOUR):
                    report = await sync.sync_changes()
                    await clock.sleep(max(0.0, began + 60 * (minute + 1) - clock.epoch()))
            return {"seconds": clock.epoch() - began, "seen": report.seen, "problems": report.problems}


def run(what: str, tenant: Emulation, environment: Mapping[str, str], plan: str, speed: float) -> float:
    """Do one part in a new process; return its seconds."""
    command = [sys.executable, "-m", "tests.scale.process", what, tenant.base_url, plan, str(speed)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{what} at plan {plan} failed with {done.returncode}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    part, url, named, rate = sys.argv[1:]
    print(json.dumps(asyncio.run(work(part, url, named, float(rate)))), flush=True)
