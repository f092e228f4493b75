"""How many calls a connection may have under way in a run."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

import pytest

from worker.renewal.commit import MAX_PAUSE_SECONDS, growing_pauses
from worker.renewal.concurrency import (
    MAX_CALLS_PER_CONNECTION,
    STALLED_SECONDS,
    ConnectionLimiter,
    loop_time,
    with_capacity,
)


def limiter(**state: Any) -> ConnectionLimiter:
    """A limiter of some connection."""
    return ConnectionLimiter(cast(Any, None), **state)


def test_the_capacity_doubles_and_halves_within_its_bounds() -> None:
    """It begins with one call, and ends with no more than a slow provider may take of all."""
    found = limiter()
    seen = []
    for _ in range(7):
        seen.append(found.capacity)
        found.grow()
    assert seen == [1, 2, 4, 8, 16, 32, 32]
    assert found.capacity == MAX_CALLS_PER_CONNECTION
    for _ in range(9):
        found.shrink()
    assert found.capacity == 1


@pytest.mark.parametrize(
    ("state", "ages", "is_ready"),
    [
        ({}, [], True),
        ({"capacity": 4}, [0.0, 0.0], True),
        ({"capacity": 4}, [0.0, 0.0, 0.0], False),
        ({"capacity": 4}, [STALLED_SECONDS + 1], False),
        ({"circuit_opened": True}, [], False),
        ({"exhausted": True}, [], False),
    ],
)
async def test_who_may_begin_calls(state: dict[str, Any], ages: list[float], is_ready: bool) -> None:
    """A connection with half its capacity free, whose calls go on and whose client is not refused."""
    now = loop_time()
    found = limiter(**state, started_at={number: now - age for number, age in enumerate(ages)})
    assert bool(with_capacity({("t", "c"): found})) is is_ready


def test_postgres_is_asked_again_within_seconds() -> None:
    """The pauses grow, and no answer waits longer than the longest one."""
    assert [*islice(growing_pauses(), 7)] == [0.2, 0.4, 0.8, 1.6, 3.2, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
