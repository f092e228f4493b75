"""Renewals per second, against loops that only make calls."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter

import httpx
from celery import Celery

from benchmarks.stage import TENANT, Result, Stage, celery
from tests.support.wait import until
from worker.http.client import make_http_client
from worker.http.transport import HttpTransport
from worker.renewal.http import KEEPALIVE_SECONDS
from worker.renewal.outcome import Outcome

GRANTS = 2000
CONCURRENCY = (8, 32)
ROUNDS = 3
TASKS = 500


def measure(stage: Stage) -> list[Result]:
    """Renew by the engine and by two loops."""
    stage.add_users(GRANTS)
    return [*asyncio.run(_measure(stage)), _one_task_each(stage)]


def _one_task_each(stage: Stage) -> Result:
    """Renew by one Celery task per token, without batches."""
    users = stage.users("partner")[:TASKS]
    app = Celery(broker=stage.servers.redis_url.reveal())
    stage.emulation.reset_calls()
    # A forced refresh replaces no token that is younger.
    stage.sql("UPDATE grants SET obtained_at = obtained_at - interval '1 min'")
    with celery("worker", "-Q", "interactive", "-c", "16", log=stage.home / "celery.log"):
        app.send_task(
            "worker.refresh_token",
            kwargs={"user_id": users[0], "connection": "partner", "force": True},
            queue="interactive",
        )
        _wait_for_calls(stage, 1)
        began = time.perf_counter()
        for user in users[1:]:
            app.send_task(
                "worker.refresh_token",
                kwargs={"user_id": user, "connection": "partner", "force": True},
                queue="interactive",
            )
        _wait_for_calls(stage, len(users))
        rate = (len(users) - 1) / (time.perf_counter() - began)
    return Result("… one Celery task per token", f"{rate:.0f}/s", "", "")


def _wait_for_calls(stage: Stage, number: int) -> None:
    until(lambda: sum(stage.emulation.calls("/idp/custom").values()) >= number, "the tasks have ended")


async def _measure(stage: Stage) -> list[Result]:
    url = stage.emulation.token_url("partner")
    async with stage.worker() as runtime:
        await (await runtime.tenant_sync(TENANT)).sync_all()
        stage.emulation.configure_provider("custom", rotates=False)
        tokens = [str(stage.emulation.live(user, "partner")["refresh_token"]) for user in _some_users(stage)]
        whole, bare, fast = [], [], []
        for _ in range(ROUNDS):
            bare.append(
                max([await _loop(httpx.AsyncClient(), url, tokens, at_once) for at_once in CONCURRENCY])
            )
            fast.append(
                max([await _loop(_same_transport(), url, tokens, at_once) for at_once in CONCURRENCY])
            )
            stage.sql("UPDATE grants SET due_at = now()")
            began = time.perf_counter()
            outcomes = await runtime.engine.renew_due([TENANT])
            whole.append(outcomes[Outcome.RENEWED] / (time.perf_counter() - began))
            _check(outcomes)
    ours, by_hand, transport = map(statistics.median, (whole, bare, fast))
    return [
        Result(
            "renewals a second, whole",
            f"{ours:.0f}/s",
            f"{by_hand:.0f}/s bare httpx loop",
            f"{ours / by_hand:.2f}",
            "≥ 0.6",
            ours / by_hand >= 0.6,
        ),
        Result("… the rate itself", f"{ours:.0f}/s", "", "", "≥ 500/s", ours >= 500),
        Result(
            "… against the same transport, bare",
            f"{ours:.0f}/s",
            f"{transport:.0f}/s bare loop over aiohttp",
            f"{ours / transport:.2f}",
            "≥ 0.4",
            ours / transport >= 0.4,
        ),
    ]


def _some_users(stage: Stage) -> list[str]:
    return [str(row) for row in stage.users("partner")[:200]]


def _check(outcomes: Counter[Outcome]) -> None:
    if set(outcomes) != {Outcome.RENEWED}:
        raise SystemExit(f"not every renewal came through: {dict(outcomes)}")


def _same_transport() -> httpx.AsyncClient:
    """Return httpx's client over the transport that renewals use."""
    transport = HttpTransport(keepalive_seconds=KEEPALIVE_SECONDS, resends_lost=False, named=())
    return make_http_client(timeout=httpx.Timeout(None, connect=5), transport=transport)


async def _loop(http: httpx.AsyncClient, url: str, tokens: list[str], at_once: int) -> float:
    """Send concurrent requests as a user would write it."""
    left = iter(range(GRANTS))

    async def lane() -> None:
        for number in left:
            data = {
                "grant_type": "refresh_token", "refresh_token": tokens[number % len(tokens)],
                "client_id": "bench", "client_secret": "bench-secret",
            }  # fmt: skip
            (await http.post(url, data=data)).raise_for_status().json()["access_token"]

    began = time.perf_counter()
    async with http:
        await asyncio.gather(*(lane() for _ in range(at_once)))
    return GRANTS / (time.perf_counter() - began)
