"""``python -m benchmarks [--keep] [NAME …]``: measure and report.

Prints the table, writes it into docs/benchmarks.md, and says what is worse than the kept numbers. ``--keep`` replaces
these.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import api, cache, client, cost, kept, memory, read, renew, rotate, sync, tick, week, workers
from benchmarks.stage import Result, Stage, stage

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MEASURES: dict[str, Callable[[Stage], list[Result]]] = {
    "read": read.measure,
    "cache": cache.measure,
    "client": client.measure,
    "api": api.measure,
    "api-memory": api.measure_memory,
    "renew": renew.measure,
    "cost": cost.measure,
    "workers": workers.measure,
    "sync": sync.measure,
    "tick": tick.measure,
    "week": week.measure,
    "rotate": rotate.measure,
    "memory": memory.measure,
}
COLUMNS = ("what", "the vault", "against", "ratio", "wanted", "")


def main(arguments: list[str]) -> int:
    """Run the chosen measurements; 1 if a target is missed."""
    chosen = [name for name in arguments if name != "--keep"]
    unknown = set(chosen) - set(MEASURES)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    console, results = Console(), []
    with stage() as open_stage:
        for name in chosen or MEASURES:
            console.print(f"measuring {name} …", style="dim")
            results.append((name, MEASURES[name](open_stage)))
    table = Table(*COLUMNS)
    for _, lines in results:
        for line in lines:
            table.add_row(*_cells(line))
    console.print(table)
    before = kept.load()
    for name, lines in results:
        _write_page(name, lines)
        for worse in kept.find_worse(name, lines, before):
            console.print(f"WORSE {worse}", style="red")
        if "--keep" in arguments:
            kept.keep(name, lines)
    return 0 if all(line.met is not False for _, lines in results for line in lines) else 1


def _cells(line: Result) -> tuple[str, ...]:
    verdict = {True: "met", False: "MISSED", None: ""}[line.met]
    return line.what, line.measured, line.baseline, line.ratio, line.target, verdict


def _write_page(name: str, lines: list[Result]) -> None:
    """Put a measurement's table between its marks on the page."""
    rows = "\n".join(f"| {' | '.join(_cells(line))} |" for line in lines)
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    when = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
    block = f"<!-- {name} -->\n{head}\n{rows}\n\n*Measured {when}.*\n<!-- /{name} -->"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: block, page, flags=re.DOTALL),
        encoding="utf-8",
    )


sys.exit(main(sys.argv[1:]))
