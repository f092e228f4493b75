"""Settings of all tests. Their fixtures lie in ``tests/support/plugins``, one file for each subject."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
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

# A slow machine is no failure of the code. Examples are the same in each run, so that a change is judged by what it
# changes; `make properties` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("new", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


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
