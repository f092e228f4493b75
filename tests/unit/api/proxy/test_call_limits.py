"""How many calls go through the proxy at a time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from worker.api.problems import ApiProblem
from worker.api.proxy.call_limits import CallLimits


def take(limits: CallLimits, number: int, connection: str, users: list[str | None]) -> ExitStack:
    """Take places, one user after the other."""
    held = ExitStack()
    for each in range(number):
        held.enter_context(limits.place(connection, users[each % len(users)]))
    return held


def refused(limits: CallLimits, connection: str, user_id: str | None) -> bool:
    """Whether there is no place."""
    try:
        with limits.place(connection, user_id):
            return False
    except ApiProblem as problem:
        return (problem.type.code, problem.headers["Retry-After"]) == ("temporarily-unavailable", "1")


def test_a_user_has_an_eighth() -> None:
    """Other users, and applications that call for this one, go on; places come back."""
    limits = CallLimits(200)
    with take(limits, 25, "google", ["eve"]):
        assert refused(limits, "google", "eve")
        assert refused(limits, "other", "eve")
        assert not refused(limits, "google", "ann")
        assert not refused(limits, "google", None)
    assert not refused(limits, "google", "eve")
    assert not limits._of_user


def test_a_connection_has_a_half_and_all_three_quarters() -> None:
    """A provider that hangs leaves places to others, and all of them leave some to those who read tokens."""
    limits = CallLimits(200)
    crowd: list[str | None] = [None, *(f"user-{number}" for number in range(9))]
    with take(limits, 100, "hanging", crowd):
        assert refused(limits, "hanging", "ann")
        with take(limits, 50, "other", crowd):
            assert refused(limits, "third", "ann")
        assert not refused(limits, "third", "ann")
    assert limits._running == 0


@pytest.mark.parametrize("max_concurrent", [1, 2, 7])
def test_a_small_process_has_one_place(max_concurrent: int) -> None:
    """However few requests there may be, one call is among them."""
    assert not refused(CallLimits(max_concurrent), "google", "ann")


def test_a_call_that_fails_gives_its_place_back() -> None:
    """Whatever it failed by."""
    limits = CallLimits(1)
    for _ in range(3):
        with pytest.raises(OSError, match="x"), limits.place("google", "ann"):
            raise OSError("x")
