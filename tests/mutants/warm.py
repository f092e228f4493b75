"""Judges generated mutants in forks of a process that has run the tests once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.mutants.catalogue import Mutant
from tests.mutants.covering import Baseline
from tests.mutants.verdicts import Verdict, judge
from tests.mutants.workbench import Workbench

_COLD_SECONDS = 120  # for a run in a process of its own, beside ten times what its tests take


class BrokenTestsError(Exception):
    """Tests fail in a fork without any mutant: forks would prove nothing."""


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

    def check(self) -> None:
        """Run all tests in a fork without a mutant."""
        answer = self._process.ask(None, sorted(self.baseline.seconds.keys() - {*self.baseline.failed}))
        if "failed" in answer or "ended" not in answer:
            raise BrokenTestsError(f"without a mutant: {answer}")

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests that run the mutant's lines, those first that have killed others of its file."""
        tests = self.baseline.tests_of(mutant)
        tests.sort(key=lambda test: -self._kills[mutant.file, test])
        with self._bench.changed(mutant):
            answer = self._process.ask(mutant.file, tests)
        match answer:
            case {"failed": killer}:
                self._kills[mutant.file, killer] += 1
                return Verdict(mutant.name, "killed", killer, by=killer)
            case {"late": _, "began": test}:
                return Verdict(mutant.name, "killed", f"{test} hung", by=test)
            case {"ended": _, "patched": "functions"}:
                return Verdict(mutant.name, "survived", f"{len(tests)} tests passed")
            case _:  # not patched, only in part, or the process crashed
                return self._judge_cold(mutant, tests)

    def _judge_cold(self, mutant: Mutant, tests: Sequence[str]) -> Verdict:
        """Run the tests in a process that imports the changed file."""
        seconds = _COLD_SECONDS + 10 * sum(self.baseline.seconds[test] for test in tests)
        return judge(mutant, self._bench.run(tests, seconds, mutant=mutant, first_only=True), each=False)

    def close(self) -> None:
        """End the process."""
        self._process.close()
