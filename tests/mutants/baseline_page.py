"""Writes the table of generated mutants into docs/mutants.md."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutants.catalogue import ROOT, Mutant
from tests.mutants.verdicts import Verdict

PAGE = ROOT / "docs/mutants.md"
SURVIVORS = Path(__file__).with_name("survivors.toml")
_TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.S)


def write_page(mutants: Sequence[Mutant], verdicts: Sequence[Verdict]) -> None:
    """Replace the table by these verdicts."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        _TABLE.sub(lambda _: f"\n{table(mutants, verdicts, reasons())}\n", page), encoding="utf-8"
    )


def reasons() -> Mapping[str, str]:
    """Return why each known survivor may live, by its name."""
    found: dict[str, str] = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))["reasons"]
    return found


def table(mutants: Sequence[Mutant], verdicts: Sequence[Verdict], why: Mapping[str, str]) -> str:
    """Return a line for each file, one for all of them, and one for each survivor.

    Of a file whose mutants were not all run the line says how many were.
    """
    outcomes = {verdict.name: verdict.outcome for verdict in verdicts}
    by_file: defaultdict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    lines = ["| file | mutants | run | killed | survived |", "|---|---|---|---|---|"]
    survivors: list[str] = []
    run, living = 0, 0
    for file, made in by_file.items():
        judged = [mutant for mutant in made if outcomes.get(mutant.name) in ("killed", "survived")]
        if not judged:
            continue
        lived = [mutant for mutant in judged if outcomes[mutant.name] == "survived"]
        run, living = run + len(judged), living + len(lived)
        lines.append(f"| `{file}` {_counts(len(made), len(judged), len(lived))}")
        survivors += [_survivor(mutant, why) for mutant in lived]
    if run:
        lines.append(f"| all {_counts(len(mutants), run, living)}")
    if survivors:
        lines += ["", "| survivor | why it lives |", "|---|---|", *survivors]
    return "\n".join(lines)


def _counts(made: int, judged: int, lived: int) -> str:
    return f"| {made} | {judged} | {100 * (judged - lived) // judged}% | {lived} |"


def _survivor(mutant: Mutant, why: Mapping[str, str]) -> str:
    name = mutant.name.replace("|", "\\|")
    return f"| `` {name} `` | {why.get(mutant.name, 'not looked into yet')} |"
