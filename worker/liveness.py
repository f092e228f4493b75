"""Whether a worker or beat still gets on.

A probe looks at the age of a file, or asks ``/healthz``: no program with all its imports is started for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# How often a process that works says so; beat does at each tick.
TOUCH_SECONDS = 5.0
# One that was silent for so long hangs. Probes compare the file's age with the same time.
ALIVE_SECONDS = 60.0


class Liveness:
    """When this process last got on.

    Args:
        file: touched each time, so that its age tells the same; None for no file.
        clock: monotonic seconds.
    """

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._touched_at = clock()
        self._has_failed = False

    def touch(self) -> None:
        """Say that the process gets on."""
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
        """Whether it got on within ``ALIVE_SECONDS``."""
        return self._clock() - self._touched_at < ALIVE_SECONDS


def touch_while_answering(
    liveness: Liveness, call_soon: Callable[[Callable[[], None]], bool], stopping: threading.Event
) -> None:
    """Touch until told to stop, while an event loop answers.

    Args:
        call_soon: has the loop call something; False where there is no loop yet, which hangs nobody.
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
