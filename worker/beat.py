"""Beat's scheduler, which reports liveness and readiness.

Beat is ready once it has sent a tick.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery.beat import ScheduleEntry, Scheduler, SchedulingError

from worker.liveness import Liveness
from worker.metrics.process import serve_metrics
from worker.readiness import ProcessReadiness
from worker.settings import load

log = structlog.get_logger(__name__)


class LivelyScheduler(Scheduler):  # type: ignore[misc]  # Celery carries no types
    """Celery's scheduler with probes and without a schedule file.

    Postgres knows what is due. A beat that waits for Redis counts as alive: a restart would not help.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = load()
        self._liveness = Liveness(settings.liveness_file)
        self._readiness = ProcessReadiness(settings.readiness_file)
        self._serving = serve_metrics(settings, self._liveness, self._readiness)

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Run a tick."""
        self._liveness.touch()
        seconds: float = super().tick(*arguments, **options)
        return seconds

    def apply_async(self, *arguments: Any, **options: Any) -> Any:
        """Send a tick."""
        sent = super().apply_async(*arguments, **options)
        self._readiness.set()
        return sent

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send a task that is due.

        One that is not sent is no loss: the next of its kind looks for the same work.
        """
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as error:
            cause = error.__context__
            log.warning("beat.send_failed", task=entry.task, error=type(cause).__name__)
            if not isinstance(cause, self.connection.connection_errors + self.connection.channel_errors):
                # Kombu opens a channel anew after these alone. One that broke while it did so is of no use for good.
                for name in ("producer", "connection"):
                    self.__dict__.pop(name, None)

    def _ensure_connected(self) -> Any:
        """Wait for Redis, as Celery's own scheduler does."""

        def on_error(error: Exception, seconds: float) -> None:
            self._liveness.touch()
            log.warning("beat.broker_lost", error=type(error).__name__, retry_after=seconds)

        return self.connection.ensure_connection(on_error, self.app.conf.broker_connection_max_retries)

    def close(self) -> None:
        """End."""
        self._serving.close()
        super().close()
