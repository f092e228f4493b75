"""A refresh on demand, requested through Postgres and through Redis in turn; and what importing the client costs."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psycopg
from celery import Celery

from benchmarks.stage import TENANT, Result, Stage, celery
from tests.support.wait import until
from token_vault.read_model import CHANNEL, REQUEST_REFRESH

REFRESHES = 200  # of each way
WARM_UP = 20
IMPORTS = 15
MIN_TTL = 3598.0  # more life than a synced token has left, and less than a renewed one's

Grant = tuple[int, str]


def measure(stage: Stage) -> list[Result]:
    """Measure from a request to the wakeup at its end, the renewal at the provider included."""
    return [_latency(stage), _import_time()]


def _latency(stage: Stage) -> Result:
    stage.empty()
    stage.emulation.add_connection("partner", "oauth2", "custom")
    stage.emulation.set_window(None)
    stage.emulation.add_users("partner", 2 * (REFRESHES + WARM_UP))
    asyncio.run(_sync(stage))
    stage.sql(
        "UPDATE grants SET expires_at = now() + interval '10 min', obtained_at = now() - interval '50 min'"
    )
    stage.sql("UPDATE grants SET due_at = now() + interval '1 day'")
    app = Celery(broker=stage.servers.redis_url.reveal())
    url = stage.servers.database_url.reveal()
    with (
        celery("worker", "-Q", "interactive", "-c", "8", log=stage.home / "celery.log"),
        psycopg.connect(url, autocommit=True) as requests,
        psycopg.connect(url, autocommit=True) as wakeups,
    ):
        wakeups.execute(f"LISTEN {CHANNEL}")

        def through_postgres(grant: Grant) -> None:
            requests.execute(REQUEST_REFRESH, (grant[0], MIN_TTL, 60), prepare=True)

        def through_redis(grant: Grant) -> None:
            app.send_task(
                "worker.refresh_token",
                kwargs={"user_id": grant[1], "connection": "partner", "min_ttl": MIN_TTL, "tenant": TENANT},
                queue="interactive",
                ignore_result=True,
            )

        def seconds(request: Callable[[Grant], None], grant: Grant) -> float:
            began = time.perf_counter()
            request(grant)
            for wakeup in wakeups.notifies(timeout=60):
                if wakeup.payload == str(grant[0]):
                    return time.perf_counter() - began
            raise AssertionError("nobody carries out a refresh")

        _until_worked(stage)
        grants = [
            (row[0], row[1])
            for row in requests.execute("SELECT id, user_id FROM grants ORDER BY id").fetchall()
        ]
        pairs = list(zip(grants[::2], grants[1::2], strict=True))
        times = [
            (seconds(through_postgres, one), seconds(through_redis, other))
            if number % 2
            else (seconds(through_redis, other), seconds(through_postgres, one))[::-1]
            for number, (one, other) in enumerate(pairs)
        ][WARM_UP:]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = ours / theirs
    return Result(
        "a refresh on demand, from request to wakeup", f"{ours * 1000:.1f} ms",
        f"{theirs * 1000:.1f} ms by a Celery task through Redis", f"{ratio:.2f}", "≤ 1", ratio <= 1,
    )  # fmt: skip


async def _sync(stage: Stage) -> None:
    async with stage.worker() as runtime:
        await (await runtime.tenant_sync(TENANT)).sync_all()


def _until_worked(stage: Stage) -> None:
    until(lambda: "ready." in (stage.home / "celery.log").read_text(), "the worker is ready")


def _import_time() -> Result:
    statements = ("import psycopg, cryptography.fernet", "from token_vault import TokenVault")
    times = [[_run(statement) for statement in statements] for _ in range(IMPORTS)]
    bare, whole = (min(column) for column in zip(*times, strict=True))
    ratio = whole / bare
    return Result(
        "importing `token_vault`", f"{whole * 1000:.0f} ms",
        f"{bare * 1000:.0f} ms psycopg and cryptography.fernet", f"{ratio:.2f}", "< 3", ratio < 3,
    )  # fmt: skip


def _run(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began
