"""Renewals per second by one, two and four worker processes against the same Postgres."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
from celery import Celery

from benchmarks.processes import children, cpu_seconds, postgres_pids
from benchmarks.stage import TENANT, Result, Stage, celery
from tests.support.wait import until

GRANTS = 1000
PROCESSES = (1, 2, 4)
# Several connections, as one alone is renewed by 32 calls at a time.
CONNECTIONS = ("partner", "second", "third", "fourth")


# To each process: one that finds nothing more to renew ends at once.
MESSAGES = 3
STARTED = "SELECT count(*) FROM worker_heartbeats WHERE 'renew' = ANY(queues)"
LEFT = "SELECT count(*) FROM grants WHERE due_at <= now() OR claim_owner IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Load:
    """A run's seconds, and the processor time of each part."""

    took: float
    workers: float
    postgres: float
    providers: float


def measure(stage: Stage) -> list[Result]:
    """Have the same grants renewed by more and more processes."""
    stage.add_users(GRANTS // len(CONNECTIONS), *CONNECTIONS)
    asyncio.run(_sync(stage))
    stage.emulation.configure_provider("custom", rotates=False)
    loads = {number: _run(stage, number) for number in PROCESSES}
    return [
        Result(
            f"renewals a second by {number} worker process{'es' if number > 1 else ''}",
            f"{GRANTS / load.took:.0f}/s",
            f"cores busy: workers {load.workers / load.took:.2f}, Postgres {load.postgres / load.took:.2f}, "
            f"providers {load.providers / load.took:.2f} of {os.cpu_count()}",
            f"{loads[1].took / load.took:.2f}",
        )
        for number, load in loads.items()
    ]


async def _sync(stage: Stage) -> None:
    async with stage.worker() as runtime:
        await (await runtime.tenant_sync(TENANT)).sync_all()


def _run(stage: Stage, number: int) -> Load:
    """Renew everything by this many processes, the second time as measured."""
    app = Celery(broker=stage.servers.redis_url.reveal())
    others = children(os.getpid())
    stage.sql("DELETE FROM worker_heartbeats")
    with ExitStack() as stack:
        for n in range(number):
            command = ("worker", "-Q", "renew", "-c", "1", "-n", f"bench{n}@%h")
            stack.enter_context(celery(*command, log=stage.home / f"celery-{n}.log"))
        workers = [pid for pid in children(os.getpid()) if pid not in others]
        _wait_for(stage, STARTED, number)
        _renew(stage, app, number)  # opens the connections
        before = _busy(stage, workers, others)
        began = time.perf_counter()
        _renew(stage, app, number)
        took = time.perf_counter() - began
        after = _busy(stage, workers, others)
    return Load(took, *(late - early for late, early in zip(after, before, strict=True)))


def _renew(stage: Stage, app: Celery, number: int) -> None:
    stage.sql("UPDATE grants SET due_at = now()")
    for _ in range(MESSAGES * number):
        app.send_task("worker.renew_due", queue="renew")
    _wait_for(stage, LEFT, 0)


def _wait_for(stage: Stage, statement: str, number: int) -> None:
    """Wait until a statement counts this many."""
    with psycopg.connect(stage.servers.database_url.reveal(), autocommit=True) as connection:
        until(lambda: connection.execute(statement).fetchone() == (number,), statement)


def _busy(stage: Stage, workers: list[int], others: list[int]) -> tuple[float, float, float]:
    """Return the processor seconds so far, as in ``Load``."""
    postgres = postgres_pids(stage)
    providers = [pid for pid in others if pid not in postgres]
    return cpu_seconds(workers), cpu_seconds(postgres), cpu_seconds(providers)
