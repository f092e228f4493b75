"""Whether a worker or beat still makes progress.

A probe compares the age of a file, or requests ``/healthz``: neither starts a program with all its imports.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# How often a worker that makes progress reports it; beat does at each tick.
TOUCH_SECONDS = 5.0
# After this time without a report a process hangs. Probes compare the file's age with the same time.
ALIVE_SECONDS = 60.0


class Liveness:
    """When this process last made progress.

    Args:
        file: touched at each report, so that its age says the same; None for no file.
        clock: monotonic seconds.
    """

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._touched_at = clock()
        self._has_failed = False

    def touch(self) -> None:
        """Report progress."""
        self._touched_at = self._clock()
        if self._file is None:
            return
        try:
            self._file.touch()
        except OSError as error:
            if not self._has_failed:
                log.warning("liveness.touch_failed", file=str(self._file), error=error.strerror)
            self._has_failed = True

    @property
    def is_alive(self) -> bool:
        """Whether it made progress within ``ALIVE_SECONDS``."""
        return self._clock() - self._touched_at < ALIVE_SECONDS


def touch_while_answering(
    liveness: Liveness, call_soon: Callable[[Callable[[], None]], bool], stopping: threading.Event
) -> None:
    """Report progress, until stopped, while an event loop answers.

    Args:
        call_soon: schedules a call on the loop; False if there is no loop yet, which is no hang.
    """
    while not stopping.is_set():
        answered = threading.Event()
        if not call_soon(answered.set):
            answered.set()
        while not answered.wait(TOUCH_SECONDS) and not stopping.is_set():
            pass
        if answered.is_set():
            liveness.touch()
        stopping.wait(TOUCH_SECONDS)
