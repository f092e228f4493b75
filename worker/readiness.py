"""Whether a worker or beat has begun its work.

Rollouts and drains wait for it: they replace the next process only when the last one works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# Between two checks whether the work has begun.
LOOK_SECONDS = 1.0


class ProcessReadiness:
    """Whether the process has been ready once.

    It stays ready in a later outage: no traffic is routed to workers, and a drain of another node would wait for it.

    Args:
        file: it exists once the process is ready; None for no file.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.is_ready = False
        with self._reporting():
            if file is not None:  # an earlier process may have left it
                file.unlink(missing_ok=True)

    def set(self) -> None:
        """Report that the process has begun its work."""
        if self.is_ready:
            return
        self.is_ready = True
        log.info("readiness.reached")
        with self._reporting():
            if self._file is not None:
                self._file.touch()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Log that the file cannot be written, and go on."""
        try:
            yield
        except OSError as error:
            log.warning("readiness.write_failed", file=str(self._file), error=error.strerror)


def wait_until_begun(
    readiness: ProcessReadiness, has_begun: Callable[[], bool], stopping: threading.Event
) -> None:
    """Check until the work has begun, or until stopped."""
    while not stopping.wait(LOOK_SECONDS):
        if has_begun():
            readiness.set()
            return
