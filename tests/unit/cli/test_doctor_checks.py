"""What ``doctor`` makes of what servers say of themselves."""

from __future__ import annotations

import pytest

from worker.cli.checks import CheckResult
from worker.cli.redis_checks import judge_redis

MB = 1 << 20


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({}, None),
        ({"maxmemory": 100 * MB, "used_memory": 50 * MB}, None),
        ({"maxmemory": 100 * MB, "used_memory": 95 * MB}, "95 of 100 MB"),
        ({"maxmemory": 0, "used_memory": 95 * MB}, None),
        ({"maxmemory_policy": "allkeys-lfu"}, "set it to noeviction"),
        ({"maxmemory_policy": "volatile-lru"}, None),
    ],
)
def test_a_full_or_evicting_redis_is_told(info: dict[str, object], says: str | None) -> None:
    """A Redis that is nearly full or evicts queues is told before tasks are lost."""
    [answers, *memory] = judge_redis({"role": "master", "redis_version": "8.0", **info})
    assert (answers.result, answers.message) == (CheckResult.OK, "answers, version 8.0")
    if says is None:
        assert memory == []
    else:
        assert [each.result for each in memory] == [CheckResult.WARN]
        assert says in memory[0].message
