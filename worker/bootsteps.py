"""What a Celery worker does beside its tasks.

Who consumes ``interactive`` carries out refresh requests, too. That begins before the worker reaches its broker and goes on while that is away.
"""

from __future__ import annotations

import threading
from typing import Any

import structlog
from celery import bootsteps

from token_vault.errors import VaultError
from worker import tasks
from worker.renewal.refresh_requests import RefreshRequests

log = structlog.get_logger(__name__)

QUEUE = "interactive"
# Before the vault is opened again that could not be.
RETRY_SECONDS = 2.0
# How long a stopping worker waits for refreshes under way: longer than the longest.
STOP_SECONDS = 60.0


class RefreshRequestStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
    """Runs ``RefreshRequests`` in a thread of the worker's process."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = QUEUE in parent.app.amqp.queues.consume_from
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._requests: RefreshRequests | None = None

    def start(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="refresh requests", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """Claim nothing more, and wait for what is under way."""
        self._stopping.set()
        if (requests := self._requests) is not None:
            tasks.process.call_soon(requests.stop)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            self._thread = None

    def _run(self) -> None:
        problem = ""
        while not self._stopping.is_set():
            try:
                tasks.process.runtime()
                tasks.process.run(self._carry_out)
            except VaultError as error:
                if str(error) != problem:
                    log.warning("refresh_request.postponed", error=str(error))
                problem = str(error)
            except Exception:  # whatever it is, readers wait for what comes after it
                log.exception("refresh_request.loop_crashed")
            self._stopping.wait(RETRY_SECONDS)

    async def _carry_out(self) -> None:
        runtime = tasks.process.runtime()
        self._requests = RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants)
        if self._stopping.is_set():
            return
        await self._requests.run()
