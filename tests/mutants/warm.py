"""Judges generated mutants in forks of a process that has run the tests once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.mutants.baseline import Baseline
from tests.mutants.catalogue import Mutant
from tests.mutants.verdicts import Verdict, judge
from tests.mutants.workbench import Workbench

_MUTANT_SECONDS = (
    90.0  # of tests for one mutant, quick ones first: only one that lives is shown to all of them
)
_COLD_SECONDS = 120  # for a run in a process of its own, beside ten times what its tests take


class WarmSession:
    """A process with the tests of some files, on a workbench.

    Attributes:
        baseline: what its tests did without a mutant.
    """

    def __init__(self, bench: Workbench, tests: Sequence[str]) -> None:
        self._bench = bench
        self._process = bench.start_session(tests)
        self.baseline = Baseline(**self._process.read())
        self._kills: Counter[tuple[str, str]] = Counter()
        self._trusted: set[str] = set()
        self._useless = {*self.baseline.failed}

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests that run the mutant's lines, those first that have killed others of its file."""
        tests = [test for test in self.baseline.tests_of(mutant) if test not in self._useless]
        tests = [*_within(tests, self.baseline.seconds)]
        tests.sort(key=lambda test: -self._kills[mutant.file, test])
        with self._bench.changed(mutant):
            answer = self._process.ask(mutant.file, tests)
        killer = answer.get("failed") or (answer["began"] if "late" in answer else None)
        if killer is None:
            if "ended" in answer and answer.get("patched") == "functions":
                return Verdict(mutant.name, "survived", f"{len(tests)} tests passed")
            return self._judge_cold(mutant, tests)  # not patched, only in part, or the process crashed
        if not self._can_pass(killer):
            return self.judge(mutant)
        self._kills[mutant.file, killer] += 1
        return Verdict(mutant.name, "killed", "hung" if "late" in answer else "", by=killer)

    def _can_pass(self, test: str) -> bool:
        """Whether a test passes in a fork without a mutant."""
        if test not in self._trusted:
            answer = self._process.ask(None, [test])
            (self._trusted if "ended" in answer and "failed" not in answer else self._useless).add(test)
        return test in self._trusted

    def _judge_cold(self, mutant: Mutant, tests: Sequence[str]) -> Verdict:
        """Run the tests in a process that imports the changed file."""
        seconds = _COLD_SECONDS + 10 * sum(self.baseline.seconds[test] for test in tests)
        names = [
            *dict.fromkeys(test.partition("[")[0] for test in tests)
        ]  # a changed value may be part of a case's name
        return judge(mutant, self._bench.run(names, seconds, mutant=mutant, first_only=True), each=False)

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _within(tests: Sequence[str], seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield quick tests, as many as are worth a mutant's while, and one at least."""
    total = 0.0
    for test in tests:
        if total and total + seconds[test] > _MUTANT_SECONDS:
            return
        total += seconds[test]
        yield test
