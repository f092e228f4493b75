"""A copy of the project in which one mutant at a time is tested."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.mutants.catalogue import ROOT, Mutant
from tests.support.database import cloned_database

# What a database is made of: mutants of it need a server of their own, not one with a finished template.
_SCHEMA = ("migrations/", "worker/vault/db/", "tests/support/database.py")


_ARGUMENTS = ("-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0")


@dataclass(frozen=True)
class TestRun:
    """What a run of tests has shown.

    Attributes:
        exit_code: of pytest; None where the run was ended by its time-out.
        seconds: by test, as ``file::test`` without parameters.
        failed: the tests that failed by an assertion or an error of their own.
        output: the end of what pytest has printed.
    """

    __test__ = False

    exit_code: int | None
    seconds: dict[str, float]
    failed: frozenset[str]
    output: str


class Workbench:
    """A copy of the tracked files, and an environment whose programs run that copy alone."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self._folder = folder
        # Compiled files are known by size and second: a changed file needs a second of its own.
        self._seconds = itertools.count(int(time.time()))
        _copy_tracked_files(self.root)
        _make_environment(folder / "venv", self.root)
        self._python = folder / "venv/bin/python"
        self._forks = _Forks(self._python, self.root)

    def run(
        self, tests: Sequence[str], timeout: float, *, mutant: Mutant | None = None, first_only: bool = False
    ) -> TestRun:
        """Run tests, with a mutant in place.

        Args:
            tests: as pytest takes them.
            timeout: seconds.
            mutant: what to change for the time of the run.
            first_only: stop at the first failure.
        """
        if mutant is None:
            return self._pytest(tests, timeout, own_servers=False, first_only=first_only)
        with self.changed(mutant):
            own_servers = mutant.file.startswith(_SCHEMA)
            return self._pytest(tests, timeout, own_servers=own_servers, first_only=first_only)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Have a mutant in place."""
        target = self.root / mutant.file
        original, mutated = target.read_text(encoding="utf-8"), mutant.mutated(self.root)
        try:
            self._write(target, mutated)
            yield
        finally:
            self._write(target, original)

    def start_session(self, tests: Sequence[str]) -> Session:
        """Start a process that runs the tests once, and then in forks: ``tests.mutants.session``."""
        arguments = [*_ARGUMENTS, "-p", "tests.mutants.session", *tests]
        return Session(self._python, self.root, arguments, self._folder)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        second = next(self._seconds)
        os.utime(path, (second, second))

    def _pytest(
        self, tests: Sequence[str], timeout: float, *, own_servers: bool, first_only: bool
    ) -> TestRun:
        report, log = self._folder / "report.xml", self._folder / "pytest.log"
        report.unlink(missing_ok=True)
        arguments = [*_ARGUMENTS, "-o", "junit_family=xunit1", f"--junitxml={report}"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the packages are imported already
        arguments += ["-x"] if first_only else []
        environment = {} if own_servers else {"TESTS_RUN_FOLDER": str(self._folder / "run")}
        exit_code = self._forks.run([*arguments, *tests], environment, log, timeout)
        return _read_report(report, exit_code, log.read_text(encoding="utf-8", errors="replace")[-3000:])

    def close(self) -> None:
        """End the process that runs tests."""
        self._forks.close()


class _Forks:
    """The process of ``forkserver``, in one environment."""

    def __init__(self, python: Path, tree: Path) -> None:
        self._server = subprocess.Popen(
            [str(python), "-m", "tests.mutants.forkserver"], cwd=tree, env=_environment(python), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, arguments: list[str], environment: dict[str, str], log: Path, timeout: float) -> int | None:
        """Run pytest once; None where it took too long."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {"arguments": arguments, "environment": environment, "log": str(log)}
        print(json.dumps(order), file=self._server.stdin, flush=True)
        group = int(self._server.stdout.readline())
        late = threading.Timer(timeout, _end_group, [group])
        late.start()
        try:
            exit_code = int(self._server.stdout.readline())
        finally:
            late.cancel()
            _end_group(group)
        return None if exit_code == -signal.SIGKILL else exit_code

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


class Session:
    """The process of ``session``, in one environment."""

    def __init__(self, python: Path, tree: Path, arguments: Sequence[str], folder: Path) -> None:
        orders, self._order_pipe = os.pipe()
        self._answer_pipe, answers = os.pipe()
        environment = _environment(python) | {
            "MUTANT_SESSION": f"{orders},{answers}", "TESTS_RUN_FOLDER": str(folder / "run"),
        }  # fmt: skip
        with (folder / "session.log").open("w", encoding="utf-8") as log:
            self._server = subprocess.Popen(
                [str(python), "-m", "pytest", *arguments], cwd=tree, env=environment, pass_fds=[orders, answers],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        os.close(orders)
        os.close(answers)
        self._answers = os.fdopen(self._answer_pipe, encoding="utf-8")

    def read(self) -> dict[str, Any]:
        """Read the next answer."""
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def ask(self, file: str | None, tests: Sequence[str]) -> dict[str, Any]:
        """Run tests in a fork, with what a file has become; answer what they have told."""
        order = json.dumps({"file": file, "tests": [*tests]})
        os.write(self._order_pipe, f"{order}\n".encode())
        return self.read()

    def close(self) -> None:
        """End it, with the servers that it has started."""
        os.close(self._order_pipe)
        self._answers.close()
        self._server.wait()


# Alembic keeps the present migration in its modules: two threads would share it.
_MIGRATION = threading.Lock()


def _environment(python: Path) -> dict[str, str]:
    # PYTHONPATH would come before the copy's own packages.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | {"PATH": f"{python.parent}:{os.environ['PATH']}"}


@contextmanager
def workbench(folder: Path) -> Iterator[Workbench]:
    """Make a workbench with a Postgres that its runs share."""
    folder.mkdir()
    with ExitStack() as stack:
        with _MIGRATION:
            # Keeps server and template between runs.
            stack.enter_context(cloned_database(folder / "run/postgres", "kept"))
        bench = Workbench(folder)
        try:
            yield bench
        finally:
            bench.close()


def _copy_tracked_files(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _make_environment(folder: Path, tree: Path) -> None:
    """Make an environment with this one's packages, but with the copy's code first."""
    venv.EnvBuilder(symlinks=True).create(folder)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    packages = sysconfig.get_path("purelib")
    (own / "copy.pth").write_text(
        f"{tree}\n{tree / 'client/src'}\nimport site; site.addsitedir({packages!r})\n", encoding="utf-8"
    )
    for script in Path(sys.executable).parent.iterdir():
        copy = folder / "bin" / script.name
        if script.is_symlink() or not script.is_file() or copy.exists():
            continue
        content = script.read_bytes()
        if content.startswith(b"#!"):
            copy.write_bytes(content.replace(sys.prefix.encode(), str(folder).encode(), 1))
            copy.chmod(0o755)


def _end_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _read_report(report: Path, exit_code: int | None, output: str) -> TestRun:
    seconds: dict[str, float] = {}
    failed: set[str] = set()
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        name = f"{case.get('file')}::{str(case.get('name')).partition('[')[0]}"
        seconds[name] = seconds.get(name, 0) + float(case.get("time", 0))
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(name)
    return TestRun(exit_code, seconds, frozenset(failed), output)
