"""The log of commands that run in a test's own process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog


@contextmanager
def command_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log as commands do, and leave nothing of it behind for other tests."""
    before = structlog.get_config()
    monkeypatch.setattr("worker.logs.configure", _log_to_stderr)
    try:
        yield
    finally:
        structlog.configure(**before)


def _log_to_stderr(**_: object) -> None:
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        cache_logger_on_first_use=False,
    )
