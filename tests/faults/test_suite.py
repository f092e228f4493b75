"""The fault suite, short: what `make faults` and `make soak` do for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.__main__ import attack, table
from tests.faults.refreshers import refresh
from tests.support.processes import REPOSITORY


def test_no_fault_loses_a_grant_outside_the_window(tmp_path: Path) -> None:
    """Killed, cut off, paused, restarted: no loss outside the window or in silence, no double spend, nothing stale."""
    result = attack(tmp_path, grants=100, faults=20, seed=7, seconds=14, life=24, scale=20, tell=False)
    assert result.clean, table(result)
    assert sum(result.faults.values()) == 20
    assert result.renewals > result.grants / 2
    assert result.reads > 100


def test_64_refreshers_on_one_grant_make_one_spend(tmp_path: Path) -> None:
    """Batches, on-demand refreshes and readers at once, a slow provider, and Redis killed: one spend each round."""
    spends, unread = refresh(tmp_path, rounds=12, seed=7, scale=40)
    assert spends == {1: 12 - unread}
    assert unread <= 1  # a call that ended before the provider read it, where the machine is busy


def test_the_points_are_steps_of_the_code() -> None:
    """Each step that a point wraps and each time that is compressed is there by its name."""
    program = "from pathlib import Path; from tests.faults import puppet; puppet.compress(40); puppet.Points(Path()).attach()"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
