"""Plant bugs, run the tests that are to notice them, and say which went unnoticed.

``python -m tests.mutants [PATTERN ...]``: of names or files. Exits 1 where a mutant survived, or proved nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.catalogue import ROOT, Mutant, load
from tests.mutants.verdicts import KeptVerdicts, Verdict, judge
from tests.mutants.workbench import TestRun, Workbench, workbench

_KEPT = ROOT / "build/mutants.json"
_BASELINE_SECONDS = 1800  # all named tests of the catalogue, on a busy machine


def main() -> int:
    """Run the program."""
    given = _arguments()
    mutants = list(_select(list(load()), given.patterns, given.changed))
    kept = KeptVerdicts(_KEPT)
    known = {} if given.again else {each.name: found for each in mutants if (found := kept.find(each))}
    waiting = [each for each in mutants if each.name not in known]
    print(f"{len(mutants)} mutants, {len(known)} of them judged before", flush=True)
    verdicts = [*known.values(), *_run(waiting, kept, given.processes)]
    return _report(verdicts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("patterns", nargs="*", help="names or files, as a shell's patterns; by default all")
    parser.add_argument(
        "--changed", nargs="?", const="", metavar="COMMIT",
        help="only those whose file or tests have changed since this commit, by default since main",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="judge anew what was judged before")
    return parser.parse_args()


def _select(mutants: Sequence[Mutant], patterns: Sequence[str], changed: str | None) -> Iterator[Mutant]:
    files = None if changed is None else _changed_files(changed)
    for mutant in mutants:
        if patterns and not any(
            fnmatch(mutant.name, each) or fnmatch(mutant.file, each) for each in patterns
        ):
            continue
        if files is None or files & {mutant.file, *(test.partition("::")[0] for test in mutant.tests)}:
            yield mutant


def _changed_files(since: str) -> set[str]:
    commit = since or _git("merge-base", "HEAD", "main").strip()
    return set(_git("diff", "--name-only", commit).split())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _run(mutants: Sequence[Mutant], kept: KeptVerdicts, processes: int) -> list[Verdict]:
    """Judge mutants, several at a time, each on a workbench of its own."""
    if not mutants:
        return []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
        free: SimpleQueue[Workbench] = SimpleQueue()
        benches = [
            stack.enter_context(workbench(folder / str(number)))
            for number in range(min(processes, len(mutants)))
        ]
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        baseline = benches[0].run(tests, _BASELINE_SECONDS)
        for bench in benches:
            free.put(bench)

        def judged(mutant: Mutant) -> Verdict:
            bench = free.get()
            try:
                verdict = _judge_one(mutant, bench, baseline)
            finally:
                free.put(bench)
            kept.keep(mutant, verdict)
            print(f"{verdict.outcome:8} {verdict.name} {verdict.detail}".rstrip(), flush=True)
            return verdict

        with ThreadPoolExecutor(len(benches)) as threads:
            return list(threads.map(judged, mutants))


def _judge_one(mutant: Mutant, bench: Workbench, baseline: TestRun) -> Verdict:
    useless = [test for test in mutant.tests if test in baseline.failed or test not in baseline.seconds]
    if useless:
        return Verdict(mutant.name, "broken", "without the mutant these do not pass: " + ", ".join(useless))
    usual = sum(baseline.seconds[test] for test in mutant.tests)
    return judge(mutant, bench.run(mutant.tests, 120 + 10 * usual, mutant=mutant), each=True)


def _report(verdicts: Sequence[Verdict]) -> int:
    print()
    for outcome in ("broken", "survived"):
        for verdict in (each for each in verdicts if each.outcome == outcome):
            print(f"{outcome:8} {verdict.name} {verdict.detail}")
    count = {
        each: sum(verdict.outcome == each for verdict in verdicts)
        for each in ("killed", "survived", "broken")
    }
    print(", ".join(f"{number} {outcome}" for outcome, number in count.items()))
    return 0 if count["killed"] == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
