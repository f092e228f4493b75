"""Processor time of other processes, as Linux counts it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psycopg

from benchmarks.stage import Stage

_TICKS = os.sysconf("SC_CLK_TCK")
# Positions after the command's name. Source: proc_pid_stat(5).
_PARENT, _TIMES = 1, slice(11, 15)


def postgres_pids(stage: Stage) -> list[int]:
    """Return the processes of the stage's Postgres."""
    with psycopg.connect(stage.servers.database_url.reveal()) as connection:
        main = int(_stat(connection.info.backend_pid)[_PARENT])
    return [main, *children(main)]


def children(parent: int) -> list[int]:
    """Return a process's children."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if int(_stat(int(folder.name))[_PARENT]) == parent:
                    found.append(int(folder.name))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Sum processor time, that of children that have ended too."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += sum(map(int, _stat(pid)[_TIMES]))
    return total / _TICKS


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
