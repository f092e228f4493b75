"""What became of mutants: judged from test runs, and kept between runs of the program."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tests.mutants.catalogue import ROOT, Mutant
from tests.mutants.workbench import TestRun

# Exit codes of pytest. After failures its own clean-up may fail too, over what failed tests have left open.
_TESTS_FAILED, _INTERNAL_ERROR = 1, 3


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    Attributes:
        name: the mutant's.
        outcome: broken where the run proves nothing, as of a file that cannot be imported.
        detail: which tests passed that should have failed, or why it is broken.
        by: the test that killed it, where one is enough.
    """

    name: str
    outcome: Literal["killed", "survived", "broken"]
    detail: str = ""
    by: str = ""


def judge(mutant: Mutant, run: TestRun, *, each: bool) -> Verdict:
    """Judge a run with the mutant in place.

    Args:
        mutant: what was changed.
        run: what its tests did.
        each: whether each named test has to fail, or any of them.
    """
    if run.exit_code is None:
        return Verdict(mutant.name, "killed", "by the time-out")
    if run.exit_code == 0:
        return Verdict(mutant.name, "survived", "all passed")
    if run.exit_code not in (_TESTS_FAILED, _INTERNAL_ERROR) or not run.failed:
        return Verdict(mutant.name, "broken", f"pytest exited {run.exit_code}: {run.output[-400:]}")
    passed = [test for test in mutant.tests if test not in run.failed] if each else []
    if passed:
        return Verdict(mutant.name, "survived", "passed: " + ", ".join(passed))
    return Verdict(mutant.name, "killed")


def key(mutant: Mutant) -> str:
    """Return what a mutant is known by: its name, and what its file becomes."""
    return _digest(mutant.name.encode(), mutant.mutated().encode())


def _digest_tests(mutant: Mutant, by: str) -> str:
    """Return what a verdict depends on: the test that killed, or the files of all tests."""
    if by:
        return _digest(_source_of(by).encode())
    files = sorted({test.partition("::")[0] for test in mutant.tests})
    return _digest(*((ROOT / file).read_bytes() for file in files))


@cache
def _source_of(test: str) -> str:
    """Return a test's text, empty where there is no such test any more."""
    file, _, name = test.partition("[")[0].partition("::")
    if not (ROOT / file).exists():
        return ""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = (node for node in ast.parse(text).body if getattr(node, "name", None) == name)
    return next((ast.get_source_segment(text, node) or "" for node in found), "")


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:20]


class KeptVerdicts:
    """Verdicts in a JSON file, written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept = self._read()

    def find(self, mutant: Mutant) -> Verdict | None:
        """Return the kept verdict, if it still holds."""
        kept = self._kept.get(key(mutant), {})
        if kept.get("tests") != _digest_tests(mutant, kept.get("by", "")):
            return None
        return Verdict(**{name: value for name, value in kept.items() if name != "tests"})  # type: ignore[arg-type]

    def keep(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep a verdict; one that proves nothing is not kept."""
        if verdict.outcome == "broken":
            return
        self._path.parent.mkdir(exist_ok=True)
        with self._lock, self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may be under way
            self._kept = self._read() | {
                key(mutant): asdict(verdict) | {"tests": _digest_tests(mutant, verdict.by)}
            }
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._kept, indent=1), encoding="utf-8")
            part.replace(self._path)

    def _read(self) -> dict[str, dict[str, str]]:
        return json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
