"""Kept ratios, and what got worse since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.stage import Result

FILE = Path(__file__).parent / "kept.json"
# Ratios of two runs of the same code differ by as much on a machine that is shared: reads had 0.68 to 0.82.
NOISE = 0.2


def load() -> dict[str, float]:
    """Read the kept ratios, by measurement and line."""
    kept: dict[str, float] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return kept


def keep(name: str, lines: Sequence[Result]) -> None:
    """Replace a measurement's kept ratios."""
    others = {key: ratio for key, ratio in load().items() if not key.startswith(f"{name}: ")}
    ratios = {_key(name, line): float(line.ratio) for line in lines if line.ratio and line.target}
    FILE.write_text(
        json.dumps({**others, **ratios}, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8"
    )


def find_worse(name: str, lines: Sequence[Result], kept: Mapping[str, float]) -> list[str]:
    """Say which ratios are worse than kept by more than noise."""
    found = []
    for line in lines:
        before = kept.get(_key(name, line))
        if before is None or not line.ratio:
            continue
        ratio, higher_is_better = float(line.ratio), line.target.startswith("≥")
        if ratio < before * (1 - NOISE) if higher_is_better else ratio > before * (1 + NOISE):
            found.append(f"{name}: {line.what}: {ratio:g}, and {before:g} was kept")
    return found


def _key(name: str, line: Result) -> str:
    """Name a line, whatever number its run has put into it."""
    return f"{name}: {re.sub(r'[0-9][0-9,]*', 'N', line.what)}"
