"""`python -m tests.faults`: attack the renewal engine, then reconcile."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.faults.injection import Injector
from tests.faults.plants import PLANTS
from tests.faults.reconciliation import FORBIDDEN, Result, log_in_dead_users, measure, reconcile
from tests.faults.refreshers import refresh
from tests.faults.stage import Stage
from tests.faults.stage_setup import stage, start_processes

FEWEST = 20  # grants


def attack(
    folder: Path, *, grants: int, faults: int, seed: int, seconds: float, life: float, scale: float,
    tell: bool = True, plants: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Run everything once.

    Args:
        seconds: how long faults are injected.
        life: of access tokens, in seconds.
        scale: by how much calls and claims are shorter than in production.
        plants: bugs that the workers have.
    """
    began, result = time.monotonic(), Result(seed=seed)
    with stage(folder, grants=grants, life=life, scale=scale, plants=plants) as made:
        start_processes(made, readers=2, seed=seed)
        _say(tell, "the vault fills")
        made.filled()
        _measure_window(made, result)
        injector = Injector(made, seed)
        _inject(made, injector, result, faults, seconds, tell)
        _say(tell, "no more faults; until all is quiet")
        made.emulation.clear_faults()
        time.sleep(180 / scale)  # whoever is paused wakes
        made.restart_ended()
        made.send(("worker.sync_all", "sync", {"full": True}))
        time.sleep(5)
        _finish(made, result)
        result.faults = dict(sorted(injector.counts.items()))
    result.seconds = round(time.monotonic() - began, 1)
    return result


def renew(folder: Path, *, grants: int, calls: int, scale: float, plants: Sequence[str]) -> Result:
    """Renew so many times without a fault, at strict providers: whatever is lost is a bug's."""
    result, life = Result(), 8.0
    with stage(folder, grants=grants, life=life, scale=scale, fresh_for=life / 2, plants=plants) as made:
        made.celery("bulk-1", "renew,sync,interactive")
        made.celery("beat-1", None)
        made.send(("worker.sync_all", "sync", {}))
        made.filled()
        while len(made.emulation.call_log("/idp/")) < calls:
            made.sql("UPDATE grants SET due_at = now() WHERE claim_owner IS NULL AND state = 'active'")
            time.sleep(0.2)
        _finish(made, result)
    return result


def _measure_window(made: Stage, result: Result) -> None:
    (made.control / "measuring").touch()
    made.sql("UPDATE grants SET due_at = now() WHERE id % 10 = 0 AND claim_owner IS NULL RETURNING id")
    time.sleep(min(made.life / 2, 20))
    (made.control / "measuring").unlink()
    measure(made, result)


def _finish(made: Stage, result: Result) -> None:
    """Wait until all is quiet, end all processes, and reconcile."""
    result.not_quiet = int(not made.quiet(240))
    made.drain()
    reconcile(made, result)


def _inject(made: Stage, injector: Injector, result: Result, faults: int, seconds: float, tell: bool) -> None:
    chance, began = random.Random(result.seed), time.monotonic()
    for number, kind in enumerate(injector.plan(faults)):
        due = began + seconds * (number + chance.random()) / faults
        while time.monotonic() < due:
            made.restart_ended()
            time.sleep(min(0.2, max(0.0, due - time.monotonic())))
        injector.inject(kind)
        made.restart_ended()
        if number % 10 == 9:
            with suppress(OSError, psycopg.Error):  # a server may just be starting
                log_in_dead_users(made)
            _bar(tell, number + 1, faults)


def _say(tell: bool, what: str) -> None:
    if tell:
        print(f"\r\033[K{what}" if sys.stderr.isatty() else what, file=sys.stderr, flush=True)


def _bar(tell: bool, done: int, faults: int) -> None:
    if tell and sys.stderr.isatty():
        full = 40 * done // faults
        print(
            f"\r[{'#' * full}{'.' * (40 - full)}] {done}/{faults} faults", end="", file=sys.stderr, flush=True
        )


def table(result: Result) -> str:
    """Write the result for people."""
    lines = [f"{'faults injected':44}{sum(result.faults.values()):>8}"]
    lines += [f"  {kind:42}{count:>8}" for kind, count in result.faults.items()]
    for name in (
        "grants", "renewals", "lost_inside_reported", "lost_to_slowness", "retries_in_doubt", "reads", *FORBIDDEN,
    ):  # fmt: skip
        lines.append(f"{name.replace('_', ' '):44}{getattr(result, name):>8}")
    lines.append(f"window in ms: {result.window_ms}; reads refused: {result.reads_refused}")
    lines.append(f"seed {result.seed}, {result.seconds:.0f} s: {'clean' if result.clean else 'NOT CLEAN'}")
    return "\n".join([*lines, *result.examples])


def main() -> int:
    """Exit with 0 only when nothing happened that must not."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    if options.refreshers:
        spends, unread = refresh(folder, rounds=options.refreshers, seed=options.seed, scale=options.scale)
        print(
            "\n".join(f"{rounds:>8} rounds with {times} spends" for times, rounds in sorted(spends.items()))
        )
        shutil.rmtree(folder, ignore_errors=True)
        if unread:
            print(f"{unread:>8} rounds whose call ended before it was read: nothing spent, in doubt")
        return 0 if spends == {1: options.refreshers - unread} else 1
    life = options.life or max(30.0, options.grants / 20)
    result = attack(
        folder, grants=options.grants, faults=options.faults, seed=options.seed,
        seconds=options.seconds or options.faults * 1.2, life=life, scale=options.scale, plants=options.plant,
    )  # fmt: skip
    print(result.as_json() if options.json else table(result))
    if options.keep:
        print(f"kept: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if result.clean else 1


def _end(number: int, frame: object) -> None:
    """Leave by way of all that ends processes; once."""
    del frame
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--refreshers", type=int, help="instead: so many rounds of 64 refreshers on one grant"
    )
    parser.add_argument("--grants", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=1_000)
    parser.add_argument(
        "--seconds", type=float, help="over which faults are injected; default 1.2 s for each"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--life", type=float, help="of access tokens in seconds; default a twentieth of the grants"
    )
    parser.add_argument("--scale", type=float, default=10.0, help="by how much calls and claims are shorter")
    parser.add_argument(
        "--plant",
        action="append",
        default=[],
        choices=sorted(PLANTS),
        help="give the workers a bug, which is to be found",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave logs and servers' data behind")
    given = parser.parse_args()
    if given.grants < FEWEST or given.faults < 1:
        parser.error(
            f"--grants is at least {FEWEST}, so that each provider has some, and --faults at least 1"
        )
    return given


if __name__ == "__main__":
    sys.exit(main())
