"""Memory of the embedded stack under load."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.stage import Result, Stage, celery
from tests.support.wait import until

RENEWALS = int(os.environ.get("RENEWALS", "100_000"))
GRANTS = 2000
LIMIT = 400 * 1024
PATIENCE = max(1800.0, RENEWALS / 100)

WORKERS = (
    ["worker", "-Q", "renew,sync", "-c", "4", "-n", "bulk@%h"],
    ["worker", "-Q", "interactive", "-c", "8", "-n", "interactive@%h"],
    ["beat"],
)


def measure(stage: Stage) -> list[Result]:
    """Sum the memory of workers, beat and servers under renewals."""
    stage.add_users(GRANTS)
    config = stage.home / "vault.toml"
    config.write_text(
        stage.emulation.config_toml()
        + "\n[schedule]\nrenew = 1\nchanges = 86400\nfull = 86400\nconnections = 86400\n",
        encoding="utf-8",
    )
    with ExitStack() as stack:
        for command in WORKERS:
            stack.enter_context(celery(*command, log=stage.home / "celery.log"))
        _wait_for_sync(stage)
        early = late = peak = 0
        done, began = 0, time.monotonic()
        while done < RENEWALS and time.monotonic() - began < PATIENCE:
            stage.sql("UPDATE grants SET due_at = now() WHERE claim_owner IS NULL")
            time.sleep(1)
            done, held = _renewals(stage), _held(stage)
            peak = max(peak, held)
            if done >= RENEWALS // 10 and not early:
                early = held
            late = held
    growth = late / early if early else float("nan")
    return [
        Result("memory of the whole stack under load, peak", f"{peak / 1024:.0f} MB", "", "", "< 400 MB", peak < LIMIT),
        Result(
            f"… after {done:,} renewals", f"{late / 1024:.0f} MB", f"{early / 1024:.0f} MB after {RENEWALS // 10:,}",
            f"{growth:.2f}", "flat (≤ 1.10)", growth <= 1.10,
        ),
    ]  # fmt: skip


def _wait_for_sync(stage: Stage) -> None:
    until(lambda: len(stage.users("partner")) == GRANTS, "the first sync has ended")


def _renewals(stage: Stage) -> int:
    return sum(stage.emulation.calls("/idp/custom").values())


def _held(stage: Stage) -> int:
    """Sum the stack's proportional memory, in KiB.

    This process and the emulation are left out.
    """
    parents: dict[int, int] = {}
    ours: set[int] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                pid, command = int(folder.name), (folder / "cmdline").read_bytes()
                parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                at_home = (
                    str(stage.home).encode() in command or stage.home in (folder / "cwd").readlink().parents
                )
                if at_home or (b"celery" in command and parents[pid] == os.getpid()):
                    ours.add(pid)
    return sum(share(pid) for pid in parents if _descends(pid, ours, parents))


def _descends(pid: int, ours: set[int], parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid in ours:
            return True
        pid = parents.get(pid, 0)
    return False


def share(pid: int) -> int:
    """Return the proportional memory of a process, in KiB."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
