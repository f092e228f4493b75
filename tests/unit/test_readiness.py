"""A process is ready once, for good."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from worker.readiness import ProcessReadiness, wait_until_begun


def test_the_file_is_there_from_then_on(tmp_path: Path) -> None:
    """An earlier process's file is removed; the own one is made once the work has begun."""
    file = tmp_path / "ready"
    file.touch()
    readiness = ProcessReadiness(file)
    assert not file.exists()
    states = [readiness.is_ready]
    readiness.set()
    readiness.set()
    states.append(readiness.is_ready)
    assert states == [False, True]
    assert file.exists()


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """Without its folder the process is ready all the same."""
    readiness = ProcessReadiness(tmp_path / "missing" / "ready")
    readiness.set()
    assert readiness.is_ready


def test_it_is_set_once_the_work_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for until then, and no longer than the process lives."""
    monkeypatch.setattr("worker.readiness.LOOK_SECONDS", 0.0)
    looks = iter([False, False, True])
    readiness, stopping = ProcessReadiness(), threading.Event()
    wait_until_begun(readiness, lambda: next(looks), stopping)
    assert readiness.is_ready
    assert next(looks, None) is None

    stopping.set()
    unready = ProcessReadiness()
    wait_until_begun(unready, lambda: True, stopping)
    assert not unready.is_ready
