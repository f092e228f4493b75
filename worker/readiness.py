"""Whether a worker or beat has begun its work.

Rollouts and drains ask for it: the next process is replaced only when the last one works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# Between two looks whether the work has begun.
LOOK_SECONDS = 1.0


class ProcessReadiness:
    """Ready once, ready for good.

    An outage later is no reason to count a process out: no traffic is sent to it, and a drain of another node would wait
    for it.

    Args:
        file: there once the process is ready; None for no file.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.is_ready = False
        with self._reporting():
            if file is not None:  # an earlier process's
                file.unlink(missing_ok=True)

    def set(self) -> None:
        """Say that the process has begun its work."""
        if self.is_ready:
            return
        self.is_ready = True
        log.info("readiness.reached")
        with self._reporting():
            if self._file is not None:
                self._file.touch()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Go on without the file where it cannot be written."""
        try:
            yield
        except OSError as error:
            log.warning("readiness.write_failed", file=str(self._file), error=error.strerror)


def wait_until_begun(
    readiness: ProcessReadiness, has_begun: Callable[[], bool], stopping: threading.Event
) -> None:
    """Look until the work has begun, or told to stop."""
    while not stopping.wait(LOOK_SECONDS):
        if has_begun():
            readiness.set()
            return
