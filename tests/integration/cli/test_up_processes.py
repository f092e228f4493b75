"""Children of `up`: real processes that end, linger, and talk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.wait import WAIT_SECONDS, until_async
from worker.cli.up import processes
from worker.cli.up.processes import Child, ChildLog

LINGERS = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', file=sys.stderr, flush=True); time.sleep(60)"


def child(program: str, folder: Path, report: Callable[[str], None] = print) -> Child:
    """Start a child that runs a Python program."""
    command = [sys.executable, "-c", program]
    return Child("the child", command, environment=dict(os.environ), log=folder / "child.log", report=report)


def _is_up(lingers: Child) -> bool:
    return lingers.log.last == "up"


async def test_a_child_that_ends_is_told_of_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end is told with its code and the last words, and the pauses between starts grow."""
    monkeypatch.setattr(processes, "FIRST_RESTART_SECONDS", 0.01)
    monkeypatch.setattr(processes, "MAX_RESTART_SECONDS", 0.02)
    told: list[str] = []
    ends = child("import sys; sys.exit('no such setting')", tmp_path, told.append)
    await until_async(lambda: len(told) >= 3)
    await ends.stop(5, asyncio.Event())
    assert told[0] == "the child ended (exit code 1); it starts again in 0.01 s: no such setting"
    assert "in 0.02 s" in told[1]
    assert "in 0.02 s" in told[2]
    assert not ends.running


async def test_a_child_that_lingers_is_killed(tmp_path: Path) -> None:
    """What does not end in its time is killed, and at once when nobody wants to wait."""
    kill = asyncio.Event()
    for stop_seconds, kill_at_once in ((0.1, False), (60.0, True)):
        lingers = child(LINGERS, tmp_path)
        await until_async(partial(_is_up, lingers))
        if kill_at_once:
            kill.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await lingers.stop(stop_seconds, kill)
        assert not lingers.running


async def test_a_program_that_cannot_run_is_told_of(tmp_path: Path) -> None:
    """A folder that is not there keeps a child from starting: that is told, and nothing breaks."""
    told: list[str] = []
    command = [sys.executable, "-c", ""]
    never = Child(
        "it", command, environment={}, log=tmp_path / "log", report=told.append, folder=tmp_path / "no"
    )
    await until_async(lambda: told)
    await never.stop(5, asyncio.Event())
    assert told[0].startswith("it ended (cannot be started: No such file or directory)")


def test_a_log_is_bounded_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that grows too long begins anew, one older file is kept, and only the owner reads either."""
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 100)
    log = ChildLog(tmp_path / "log")
    for number in range(50):
        log.write(f"line {number}, as long as lines are\n".encode())
    log.close()
    assert {file.name for file in tmp_path.iterdir()} == {"log", "log.1"}
    assert all(file.stat().st_size < 200 for file in tmp_path.iterdir())
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert (tmp_path / "log").read_text().endswith("line 49, as long as lines are\n")


def test_a_log_counts_trouble(tmp_path: Path) -> None:
    """Errors and warnings are counted, however the lines come in pieces, and the last is kept in words."""
    records = [
        {"event": "sync.finished", "level": "info"},
        {"event": "renewal.refused", "level": "warning", "connection": "bitbucket", "timestamp": "now"},
        {"event": "renewal.failed", "level": "error", "grant": 7, "exception": "Traceback…"},
    ]
    said = b"plain words\n[]\n{not json\n" + b"".join(
        json.dumps(record).encode() + b"\n" for record in records
    )
    log = ChildLog(tmp_path / "log")
    for start in range(0, len(said), 7):
        log.write(said[start : start + 7])
    log.close()
    assert (log.errors, log.warnings, log.trouble) == (1, 1, "renewal.failed grant=7")


def test_a_log_without_a_disk(tmp_path: Path) -> None:
    """Where the log cannot be written, its child goes on, and trouble is still counted."""
    log = ChildLog(tmp_path / "no" / "log")
    log.write(b'{"event": "x", "level": "error"}\n')
    assert log.errors == 1
