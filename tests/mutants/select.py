"""Which mutants a run is about."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from tests.mutants.catalogue import ROOT, Mutant
from tests.mutants.operators import generate

MODULES = Path(__file__).with_name("modules.toml")


def load_generated() -> Iterator[Mutant]:
    """Make the mutants of all files that ``modules.toml`` names."""
    for entry in tomllib.loads(MODULES.read_text(encoding="utf-8")).values():
        for file in entry["files"]:
            yield from generate(file, entry["tests"])


def select(mutants: Iterator[Mutant], patterns: Sequence[str], changed_since: str | None) -> list[Mutant]:
    """Select mutants.

    Args:
        mutants: all there are.
        patterns: of names or files; all without one.
        changed_since: a commit, empty for where this branch left main; only mutants whose file or tests have
            changed since then. None for all.
    """
    files = None if changed_since is None else _changed_files(changed_since)
    return [
        mutant
        for mutant in mutants
        if not patterns or any(fnmatch(mutant.name, each) or fnmatch(mutant.file, each) for each in patterns)
        if files is None or files & {mutant.file, *(test.partition("::")[0] for test in mutant.tests)}
    ]


def _changed_files(since: str) -> set[str]:
    commit = since or _git("merge-base", "HEAD", "main").strip()
    return set(_git("diff", "--name-only", commit).split())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
