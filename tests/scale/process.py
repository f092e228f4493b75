"""A process that syncs the emulated tenant by its clock."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
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
    """The tenant's clock, which stands still but for our waits.

    So a busy machine changes nothing: a wait for the rate limit takes no time here, and what the tenant does meanwhile
    has happened when it is over.
    """

    def __init__(self, tenant: Emulation) -> None:
        self._tenant, self._now, self._turn = tenant, tenant.now(), asyncio.Lock()

    def epoch(self) -> float:
        return self._now

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self._now, UTC)

    async def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        async with self._turn:  # whoever else waits may have moved it on already
            if until > self._now:
                self._now = await asyncio.to_thread(self._tenant.advance, until - self._now)


class RealTime(EmulatedTime):
    """The tenant's clock where it runs as ours does."""

    def epoch(self) -> float:
        return time.time()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def opened(
    tenant: Emulation, plan: str, time_is_real: bool
) -> AsyncIterator[tuple[Runtime, ManagementClient, EmulatedTime]]:
    """Open the vault, and a client with the plan's limits."""
    clock = RealTime(tenant) if time_is_real else EmulatedTime(tenant)
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


async def work(what: str, base_url: str, plan: str, minutes: int, time_is_real: bool) -> dict[str, object]:
    """Do one part; print its seconds by the tenant's clock."""
    with Emulation.at(base_url) as tenant:
        async with opened(tenant, plan, time_is_real) as (runtime, client, clock):
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
                for minute in range(minutes):
                    report = await sync.sync_changes()
                    await clock.sleep(max(0.0, began + 60 * (minute + 1) - clock.epoch()))
            return {"seconds": clock.epoch() - began, "seen": report.seen, "problems": report.problems}


def run(
    what: str,
    tenant: Emulation,
    environment: Mapping[str, str],
    plan: str,
    *,
    minutes: int = MINUTES_AN_HOUR,
    time_is_real: bool = False,
    tell: Callable[[int], None] | None = None,
) -> float:
    """Do one part in a new process; return its seconds.

    Args:
        minutes: how long changes are followed, where that is the part.
        time_is_real: whether the tenant's clock runs by itself.
        tell: given the number of calls so far, twice a second.
    """
    command = [
        sys.executable,
        "-m",
        "tests.scale.process",
        what,
        tenant.base_url,
        plan,
        str(minutes),
        "real" * time_is_real,
    ]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            if tell:
                tell(sum(int(group["calls"]) for group in tenant.limit_counts()["groups"].values()))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{what} at plan {plan} failed with {process.returncode}")
    return float(json.loads(said.splitlines()[-1])["seconds"])


if __name__ == "__main__":
    part, url, named, followed, real = sys.argv[1:]
    print(json.dumps(asyncio.run(work(part, url, named, int(followed), bool(real)))), flush=True)
