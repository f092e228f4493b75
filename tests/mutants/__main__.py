"""Plant bugs, run the tests that are to notice them, and say which went unnoticed.

Exits 1 where a mutant survived, or where the run proves nothing of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.baseline_page import write_page
from tests.mutants.catalogue import ROOT, Mutant, load
from tests.mutants.select import load_generated, select
from tests.mutants.verdicts import KeptVerdicts, Verdict, judge
from tests.mutants.warm import WarmSession
from tests.mutants.workbench import TestRun, Workbench, workbench

_KEPT = ROOT / "build/mutants.json"
_BASELINE_SECONDS = 1800  # all tests that the mutants name, on a busy machine
_LEAST_SECONDS = 120  # for a run: on a busy machine the servers alone may need half of it


def main() -> int:
    """Run the program."""
    given = _arguments()
    mutants = select(load_generated() if given.generated else load(), given.patterns, given.changed)
    kept = KeptVerdicts(_KEPT)
    known = {} if given.again else {each.name: found for each in mutants if (found := kept.find(each))}
    waiting = [each for each in mutants if each.name not in known]
    print(f"{len(mutants)} mutants, {len(known)} of them judged before", flush=True)
    verdicts = [*known.values()]
    if not given.known:
        run = _run_generated if given.generated else _run
        verdicts += run(waiting, kept, given.processes)
    if given.write:
        write_page(mutants, verdicts)
    return _report(verdicts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("patterns", nargs="*", help="names or files, as a shell's patterns; by default all")
    parser.add_argument(
        "--changed", nargs="?", const="", metavar="COMMIT",
        help="only those whose file or tests have changed since this commit, by default since main",
    )  # fmt: skip
    parser.add_argument(
        "--generated", action="store_true", help="mutants made by rule, instead of the catalogue"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="judge anew what was judged before")
    parser.add_argument("--known", action="store_true", help="run nothing: tell what was judged before")
    parser.add_argument("--write", action="store_true", help="write the table in docs/mutants.md")
    return parser.parse_args()


def _run_generated(mutants: Sequence[Mutant], kept: KeptVerdicts, processes: int) -> list[Verdict]:
    """Judge generated mutants, as many modules at a time as there are processes."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as threads:
        modules = [
            (Path(folder) / str(number), [*module])
            for number, (_, module) in enumerate(groupby(mutants, key=attrgetter("tests")))
        ]
        found = threads.map(lambda module: _run_module(module[0], module[1], kept), modules)
        return [verdict for verdicts in found for verdict in verdicts]


def _run_module(folder: Path, mutants: Sequence[Mutant], kept: KeptVerdicts) -> list[Verdict]:
    verdicts = []
    with workbench(folder) as bench, closing(WarmSession(bench, mutants[0].tests)) as session:
        for mutant in mutants:
            verdicts.append(session.judge(mutant))
            kept.keep(mutant, verdicts[-1])
            _print(verdicts[-1])
    return verdicts


def _print(verdict: Verdict) -> None:
    print(f"{verdict.outcome:8} {verdict.name} {verdict.by or verdict.detail}".rstrip(), flush=True)


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
        baseline = benches[0].run(
            sorted({test for mutant in mutants for test in mutant.tests}), _BASELINE_SECONDS
        )
        for bench in benches:
            free.put(bench)

        def judged(mutant: Mutant) -> Verdict:
            bench = free.get()
            try:
                verdict = _judge_one(mutant, bench, baseline)
            finally:
                free.put(bench)
            kept.keep(mutant, verdict)
            _print(verdict)
            return verdict

        with ThreadPoolExecutor(len(benches)) as threads:
            return list(threads.map(judged, mutants))


def _judge_one(mutant: Mutant, bench: Workbench, baseline: TestRun) -> Verdict:
    seconds = 0.0
    for test in mutant.tests:
        ran = {name for name in baseline.seconds if name == test or name.startswith(f"{test}::")}
        if not ran or ran & baseline.failed:
            return Verdict(mutant.name, "broken", f"without the mutant {test} does not pass")
        seconds += sum(baseline.seconds[name] for name in ran)
    return judge(mutant, bench.run(mutant.tests, _LEAST_SECONDS + 10 * seconds, mutant=mutant), each=True)


def _report(verdicts: Sequence[Verdict]) -> int:
    print()
    for outcome in ("broken", "survived"):
        for verdict in (each for each in verdicts if each.outcome == outcome):
            print(f"{outcome:8} {verdict.name} {verdict.detail}")
    outcomes = [verdict.outcome for verdict in verdicts]
    print(", ".join(f"{outcomes.count(each)} {each}" for each in ("killed", "survived", "broken")))
    return 0 if outcomes.count("killed") == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
