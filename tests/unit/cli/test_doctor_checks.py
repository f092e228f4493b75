"""What ``doctor`` makes of what servers say of themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import __version__
from worker.cli.checks import CheckResult
from worker.cli.clock_checks import MAX_DIFFERENCE, judge_clock, read_date
from worker.cli.connection_checks import judge_renewal
from worker.cli.redis_checks import judge_redis
from worker.cli.worker_checks import find_other_versions

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


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
spans = st.timedeltas(timedelta(), timedelta(days=400))


@given(offset=st.timedeltas(-timedelta(days=400), timedelta(days=400)), before=spans, after=spans)
def test_a_slow_answer_is_no_wrong_clock(offset: timedelta, before: timedelta, after: timedelta) -> None:
    """However long the other clock's time is on its way, only a difference is told, and never as more than it is."""
    check = judge_clock("x", NOON, NOON + offset - before, NOON + offset + after)
    if abs(offset) <= MAX_DIFFERENCE:
        assert check.result is CheckResult.OK
    if check.result is CheckResult.WARN:
        word = "ahead of" if offset > timedelta() else "behind"
        [seconds] = [int(each) for each in check.message.split() if each.isdigit()]
        assert word in check.message
        assert timedelta(seconds=seconds) <= abs(offset)


def test_a_wrong_clock_is_told_with_its_difference() -> None:
    """A clock that is off by more than some seconds is told, with NTP as the remedy."""
    check = judge_clock("x", NOON, NOON + timedelta(seconds=42), NOON + timedelta(seconds=43))
    assert check.result is CheckResult.WARN
    assert "is 42 s ahead of it" in check.message
    assert "NTP" in check.message
    assert (
        "7 s behind"
        in judge_clock("x", NOON, NOON - timedelta(seconds=8), NOON - timedelta(seconds=7)).message
    )


@pytest.mark.parametrize(
    ("headers", "date"),
    [
        ({"date": "Tue, 01 Jan 2030 12:00:00 GMT"}, NOON),
        ({"date": "Tue, 01 Jan 2030 11:59:00 GMT", "age": "60"}, NOON),
        ({"date": "Tue, 01 Jan 2030 12:00:00 GMT", "age": "old"}, None),
        ({"date": "Tue, 01 Jan 2030 12:00:00 GMT", "age": "9" * 30}, None),
        ({"date": "noon"}, None),
        ({}, None),
    ],
)
def test_an_answers_date_is_read_or_left(headers: dict[str, str], date: datetime | None) -> None:
    """A Date is read with the time that a cache held it; what is none is left."""
    assert read_date(headers) == date


def test_workers_of_another_version_are_named() -> None:
    """A worker of another version is named with both, and one of before versions were recorded as older."""
    found = find_other_versions({"a@x": __version__, "b@x": "0.0.7", "c@x": None})
    assert [(each.name, each.result) for each in found] == [
        ("worker b@x", CheckResult.WARN),
        ("worker c@x", CheckResult.WARN),
    ]
    assert f"runs version 0.0.7, and this is {__version__}" in found[0].message
    assert "an older version" in found[1].message


@pytest.mark.parametrize(
    ("late", "held_back", "ended", "says"),
    [
        (0, {}, 0, ["ok", "is on time, and no token is past its end"]),
        (0, {}, 1, ["hint", "is on time, and 1 token that could be renewed has ended"]),
        (0, {"blocked": 1, "paused": 2}, 0, ["hint", "due and held back: blocked 1, paused 2, for reasons that are named"]),
        (0, {"paused": 2}, 1, ["hint", "for reasons that are named above; 1 token that could be renewed has ended"]),
        (1, {}, 2, ["warn", "1 grant is late, by up to 90 s; 2 tokens that could be renewed have ended: see that beat"]),
        (3, {"away": 1}, 0, ["warn", "3 grants are late, by up to 90 s, 1 of them as its provider is away"]),
        (3, {"away": 2, "blocked": 4}, 0, ["warn", "2 of them as their provider is away; due and held back: blocked 4"]),
    ],
)  # fmt: skip
def test_renewal_that_is_held_back_is_neither_late_nor_fine(
    late: int, held_back: dict[str, int], ended: int, says: list[str]
) -> None:
    """What is blocked or paused is told as that, and only where nothing else is due is all well."""
    check = judge_renewal({
        "late": {"grants": late, "behind": timedelta(seconds=90) if late else None}, "held_back": held_back,
        "grants": {"active": 5, "ended": ended},
    })  # fmt: skip
    assert check.result == says[0]
    assert [each for each in says[1:] if each not in check.message] == []
