"""Waiting for what happens in another task, thread or process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Only what never happens takes so long: no assertion depends on this bound, however busy the machine is.
WAIT_SECONDS = 120.0


def until(condition: Callable[[], T | None], what: str = "it holds", *, seconds: float = WAIT_SECONDS) -> T:
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.02)
    return held


async def until_async(
    condition: Callable[[], T | None], what: str = "it holds", *, seconds: float = WAIT_SECONDS
) -> T:
    """Wait as ``until`` does, while other tasks run."""
    end = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain until {what}"
        await asyncio.sleep(0.01)
    return held
