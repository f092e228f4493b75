"""A plugin of pytest: runs the tests once, and then some of them in a fork for each mutant.

Importing the packages, collecting tests and starting servers takes longer than most tests. It is done once here:
forks have it all. Orders and answers are JSON objects, one a line, on the file descriptors that ``MUTANT_SESSION``
names: first how long each test took and which lines it ran, then what became of each order.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

from tests.mutants.patch import LiveCode, NotPatchable

_ROOMS = ("worker", "client/src")
_START_SECONDS = 60.0
_LEAST_SECONDS = 10.0  # for a test, on a busy machine
_TIMES_BASELINE = 8
# Whose set-up takes longer may have started a server for all that come after: it is measured again.
_SETUP_SECONDS = 0.5


class _Session:
    """The state of one process that serves orders."""

    def __init__(self, config: pytest.Config, names: str) -> None:
        orders, answers = map(int, names.split(","))
        for each in (orders, answers):
            os.set_inheritable(each, False)
        self._orders = os.fdopen(orders, encoding="utf-8")
        self._answers = os.fdopen(answers, "w", encoding="utf-8")
        self._root = config.rootpath
        self._reported = self._report_baseline
        self.seconds: dict[str, float] = {}
        self._setup_seconds = 0.0
        self._failed: set[str] = set()
        self._failed_here = False
        self._told = -1
        self._coverage = coverage.Coverage(
            data_file=None, source=[str(self._root / each) for each in _ROOMS], config_file=False,
            concurrency=["thread", "greenlet"],
        )  # fmt: skip
        self._coverage.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reported(report)

    def _report_baseline(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self.seconds[report.nodeid] = self._setup_seconds = report.duration
        else:
            self.seconds[report.nodeid] += report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def _report_failure(self, report: pytest.TestReport) -> None:
        if report.failed and not self._failed_here:
            self._failed_here = True
            self._tell_pipe({"failed": report.nodeid})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        for item in session.items:
            self._coverage.switch_context(item.nodeid)
            _run_test(session, item)
            if self._setup_seconds > _SETUP_SECONDS:
                _run_test(session, item)
        self._coverage.stop()
        code, items = LiveCode(self._root), {item.nodeid: item for item in session.items}  # before any change
        gc.collect()
        gc.freeze()  # or forks would copy all that they look at
        self._answer({"seconds": self.seconds, "failed": sorted(self._failed), "lines": self._lines()})
        for line in self._orders:
            order = json.loads(line)
            self._answer(self._fork(session, code, [items[each] for each in order["tests"]], order["file"]))
        return True

    def _lines(self) -> dict[str, dict[int, list[str]]]:
        """Return the tests by line and file."""
        data = self._coverage.get_data()
        return {
            str(Path(file).relative_to(self._root)): {
                line: tests for line, names in data.contexts_by_lineno(file).items() if (tests := [*filter(None, names)])
            }
            for file in data.measured_files()
        }  # fmt: skip

    def _answer(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)

    def _fork(
        self, session: pytest.Session, code: LiveCode, items: list[pytest.Item], file: str | None
    ) -> dict[str, Any]:
        """Run tests in a fork until the first one fails."""
        reading, self._told = os.pipe()
        child = os.fork()
        if child == 0:
            self._become_run(session, code, items, file)
        os.close(self._told)
        answer = self._follow(reading)
        os.close(reading)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return answer

    def _follow(self, told: int) -> dict[str, Any]:
        """Read what a fork tells until it ends, or one of its tests takes too long."""
        answer: dict[str, Any] = {}
        limit, rest = _START_SECONDS, b""
        while select.select([told], [], [], limit)[0]:
            if not (chunk := os.read(told, 65536)):
                return answer
            *lines, rest = (rest + chunk).split(b"\n")
            for news in map(json.loads, lines):
                if test := news.get("began"):
                    limit = _LEAST_SECONDS + _TIMES_BASELINE * self.seconds[test]
                answer |= news
                if "ended" in news:
                    return answer
        return answer | {"late": True}

    def _become_run(
        self, session: pytest.Session, code: LiveCode, items: list[pytest.Item], file: str | None
    ) -> None:
        try:
            os.setsid()
            self._reported = self._report_failure
            if file is not None:
                self._tell_pipe({"patched": code.patch(self._root / file)})
            for item in items:
                self._tell_pipe({"began": item.nodeid})
                _run_test(session, item)
                if self._failed_here:
                    break
            self._tell_pipe({"ended": True})
        except NotPatchable as error:
            self._tell_pipe({"unpatched": str(error)})
        except BaseException:
            traceback.print_exc()
            self._tell_pipe({"crashed": traceback.format_exc()[-600:]})
        finally:
            os._exit(0)

    def _tell_pipe(self, news: dict[str, Any]) -> None:
        os.write(self._told, json.dumps(news).encode() + b"\n")


class _Chain:
    """Stands for the next test, so that what the session shares is not torn down."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[pytest.Session]:
        """Return what the next test needs."""
        return [self._session]


def _run_test(session: pytest.Session, item: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=_Chain(session))


def pytest_configure(config: pytest.Config) -> None:
    """Serve where the environment says so."""
    # To know that a property fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", hypothesis.settings(), phases=phases)
    hypothesis.settings.load_profile("mutants")
    config.pluginmanager.register(_Session(config, os.environ.pop("MUTANT_SESSION")))
