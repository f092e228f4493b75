"""A process says that it gets on, and one that hangs does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from worker.liveness import ALIVE_SECONDS, Liveness, touch_while_answering


def test_a_process_that_is_silent_for_a_minute_hangs(tmp_path: Path) -> None:
    """It is alive for a minute after each touch, and the file has the time of the last one."""
    file, times = (
        tmp_path / "alive",
        iter([0, ALIVE_SECONDS - 1, ALIVE_SECONDS, ALIVE_SECONDS, ALIVE_SECONDS]),
    )
    liveness = Liveness(file, clock=lambda: next(times))
    answers = [liveness.is_alive, liveness.is_alive]
    assert answers == [True, False]
    assert not file.exists()
    liveness.touch()
    assert liveness.is_alive
    assert file.exists()


def test_a_file_that_cannot_be_touched_ends_nothing(tmp_path: Path) -> None:
    """A missing folder is logged, and the process counts as alive."""
    now = 0.0
    liveness = Liveness(tmp_path / "missing" / "alive", clock=lambda: now)
    now = ALIVE_SECONDS
    liveness.touch()
    assert liveness.is_alive


def test_a_loop_that_does_not_answer_is_no_sign_of_life(tmp_path: Path) -> None:
    """Nothing is touched while the event loop holds the question; a process without a loop is alive."""
    file, stopping = tmp_path / "alive", threading.Event()

    def hangs(call: Callable[[], None]) -> bool:
        stopping.set()
        return True

    touch_while_answering(Liveness(file), hangs, stopping)
    assert not file.exists()

    stopping.clear()

    def no_loop_yet(call: Callable[[], None]) -> bool:
        stopping.set()
        return False

    touch_while_answering(Liveness(file), no_loop_yet, stopping)
    assert file.exists()
