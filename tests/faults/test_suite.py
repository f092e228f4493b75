"""The fault suite, short: what `make faults` and `make soak` do for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.faults.__main__ import attack, renew, table
from tests.faults.refreshers import refresh
from tests.support.processes import REPOSITORY
from tests.support.wait import until


def test_no_fault_loses_a_grant_outside_the_window(tmp_path: Path) -> None:
    """Killed, cut off, paused, restarted: no loss outside the window or in silence, no double spend, nothing stale."""
    result = attack(tmp_path, grants=100, faults=20, seed=7, seconds=14, life=24, scale=20, tell=False)
    assert result.clean, table(result)
    assert sum(result.faults.values()) == 20
    assert result.renewals > result.grants / 2
    assert result.reads > 100


def test_planted_bugs_are_found(tmp_path: Path) -> None:
    """A worker that drops one answer in a hundred is accused of the loss, and one that tells no death of that."""
    result = renew(tmp_path, grants=40, calls=120, scale=40, plants=["answer-dropped", "death-not-told"])
    assert result.accused == {"losses_without_fault", "deaths_not_told"}, table(result)


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM ends the servers, the emulation, and every process that was forked."""
    command = [sys.executable, "-m", "tests.faults", "--grants", "20", "--faults", "1"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == "the vault fills\n"
        assert len(_processes(tmp_path)) > 8
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM
    until(lambda: not _processes(tmp_path), "all processes have ended")


def _processes(folder: Path) -> list[int]:
    """The processes that use a folder, by what they were started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            given = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
            if (
                str(folder).encode() in given
                and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found.append(int(path.name))
    return found


def test_64_refreshers_on_one_grant_make_one_spend(tmp_path: Path) -> None:
    """Batches, on-demand refreshes and readers at once, a slow provider, and Redis killed: one spend each round."""
    spends, unread = refresh(tmp_path, rounds=12, seed=7, scale=40)
    assert spends == {1: 12 - unread}
    assert unread < 12  # calls that ended before the provider read them: several, where the machine is busy


def test_the_points_are_steps_of_the_code() -> None:
    """Each step that a point wraps, each time that is compressed and what each bug changes is there by its name."""
    program = """
from pathlib import Path
from unittest.mock import Mock
from tests.faults.plants import PLANTS
from tests.faults.points import Points, compress
compress(40)
for plant in PLANTS.values():
    plant(Path())
Points(Path(), Mock()).attach()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
