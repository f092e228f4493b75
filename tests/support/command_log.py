"""The log of commands that run in a test's own process."""

from __future__ import annotations

import logging
import sys

import pytest
import structlog


def log_as_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands log warnings to standard error.

    Loggers are not cached, as commands cache them: those would outlive the test.
    """
    monkeypatch.setattr("worker.logs.configure", _log_to_stderr)


def _log_to_stderr(**_: object) -> None:
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        cache_logger_on_first_use=False,
    )
