"""Time that passes only when all callers sleep.

Hours of many callers pass in a moment.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from tests.support.wait import WAIT_SECONDS

START = datetime(2026, 3, 15, 12, tzinfo=UTC)


class SimulatedTime:
    """A clock that moves on when all sleep."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._number = count()
        self._awake = 0

    def __call__(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self.passed + max(0.0, seconds), next(self._number), woken))
        self._awake -= 1
        self._advance_if_all_sleep()
        await woken.wait()

    async def run(self, *callers: Coroutine[Any, Any, None]) -> None:
        self._awake = len(callers)
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(self._counted(caller))

    async def _counted(self, caller: Coroutine[Any, Any, None]) -> None:
        await caller
        self._awake -= 1
        self._advance_if_all_sleep()

    def _advance_if_all_sleep(self) -> None:
        if self._awake == 0 and self._sleepers:
            self.passed, _, woken = heapq.heappop(self._sleepers)
            self._awake += 1
            woken.set()
