"""What ``doctor`` looks at of workers: their heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker import __version__
from worker.cli import environment
from worker.cli.checks import Check, CheckResult

if TYPE_CHECKING:
    from worker.runtime import Runtime
    from worker.settings import Settings


def check_worker(worker: str) -> Check:
    """Check that one worker consumes its queues."""
    from worker.runtime import open_runtime
    from worker.vault import heartbeats

    async def queues(settings: Settings) -> list[str]:
        async with open_runtime(settings, connections=1) as runtime:
            alive = await heartbeats.list_alive(runtime.vault)
            return alive[worker].queues if worker in alive else []

    with environment.running_vault() as settings:
        found = asyncio.run(queues(settings))
    if found:
        return Check("worker", CheckResult.OK, f"consumes {', '.join(found)}")
    return Check("worker", CheckResult.FAIL, f"{worker} consumes no queue: see its log")


async def check_workers(runtime: Runtime) -> list[Check]:
    """Check that workers of this version consume each queue."""
    from worker.vault import heartbeats
    from worker.vault.status.measures import QUEUES

    alive = await heartbeats.list_alive(runtime.vault)
    others = find_other_versions({name: each.version for name, each in alive.items()})
    served = {queue for each in alive.values() for queue in each.queues}
    idle = [queue for queue in QUEUES if queue not in served]
    if idle:
        fix = "start `token-vault up`, or a worker with `celery -A worker.app worker -Q …`"
        return [
            Check("workers", CheckResult.WARN, f"no worker takes from {', '.join(idle)}: {fix}"), *others,
        ]  # fmt: skip
    return others or [
        Check("workers", CheckResult.OK, f"alive, of version {__version__}: {', '.join(alive)}")
    ]


def find_other_versions(versions: Mapping[str, str | None]) -> list[Check]:
    """Name the workers of another version than this program's.

    Args:
        versions: of each worker that is alive; None where its version does not record it.
    """
    return [
        Check(
            f"worker {name}",
            CheckResult.WARN,
            f"runs {f'version {version}' if version else 'an older version'}, and this is {__version__}: "
            "start all processes of one version, and the database at its revision (`token-vault migrate`)",
        )
        for name, version in versions.items()
        if version != __version__
    ]
