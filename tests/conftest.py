"""Settings of all tests. Their fixtures lie in ``tests/support/plugins``, one file for each subject."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

pytest_plugins = [
    "tests.support.plugins.readers",
    "tests.support.plugins.chosen_servers",
    "tests.support.plugins.servers",
    "tests.support.plugins.tenant",
    "tests.support.plugins.workers",
]

# Those that take more than half a minute in a run of the suite.
LONGEST = (
    "tests/faults/test_suite.py",
    "tests/integration/cli/test_up.py",
    "tests/integration/renewal/test_blame.py",
    "tests/integration/renewal/test_storms.py",
    "tests/integration/test_failover.py",
    "tests/scale/",
)

# Modules and tests are no garbage: looking through them takes half of the time in which they are loaded.
gc.disable()

# A slow machine is no failure of the code. Examples are the same in each run, so that a change is judged by what it
# changes; `make properties` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("new", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Load a share of the files of the whole suite first, each of its processes another one.

    Rewriting their assertions takes longer than all else of loading them, and is kept for the other processes.
    """
    worker: dict[str, Any] = getattr(session.config, "workerinput", {})
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and worker and not sys.dont_write_bytecode:
        files = sorted(Path(__file__).parent.rglob("test_*.py"))
        for file in files[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
            name = file.relative_to(session.config.rootpath).with_suffix("")
            with suppress(Exception, pytest.skip.Exception):  # collecting it says what is wrong
                importlib.import_module(".".join(name.parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that at the end no process is left alone with one."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """Let the collector look at what tests make, not at what is there for all of them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def log_configuration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back the log's configuration, which commands and workers set for their whole process.

    A logger that was cached would keep it for later tests.
    """
    configure = structlog.configure

    def configure_uncached(**given: Any) -> None:
        configure(**given | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configure_uncached)
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
