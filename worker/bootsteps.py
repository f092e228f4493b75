"""What a Celery worker does besides its tasks.

A worker that consumes ``interactive`` handles refresh requests, one that consumes ``sync`` syncs the users named by
hooks, and one that consumes ``renew`` renews due grants when no ticks arrive. All of this starts before the worker
connects to its broker, and goes on while the broker is away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import structlog
from celery import bootsteps

from token_vault.errors import VaultError
from worker import broker, settings, tasks
from worker.liveness import Liveness, touch_while_answering
from worker.metrics.process import serve_metrics
from worker.metrics.vault_metrics import VaultMetrics
from worker.readiness import ProcessReadiness, wait_until_begun
from worker.renewal.refresh_requests import RefreshRequests
from worker.runtime import Runtime, database_url
from worker.sync.changed_users import ChangedUsers
from worker.vault import heartbeats
from worker.vault.db.revisions import revisions

log = structlog.get_logger(__name__)

RENEW_QUEUE = "renew"
# After this many of beat's intervals without a tick, a worker looks for due grants by itself.
MISSED_TICKS = 3
# Between two attempts to open the vault.
RETRY_SECONDS = 2.0
# How long a stopping worker waits for refreshes under way: longer than the longest.
STOP_SECONDS = 60.0


class Loop(Protocol):
    """Work that goes on until it is stopped."""

    async def run(self) -> None:
        """Work until ``stop``."""

    def stop(self) -> None:
        """Start no new work."""


class ThreadStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
    """Runs in a thread until the worker stops."""

    # Celery starts it before it connects to the broker.
    requires = ("celery.worker.components:Pool",)
    name: str
    stop_seconds = STOP_SECONDS

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, args=(parent,), name=self.name, daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """Start no new work, and wait for work under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self.stop_seconds)
            self._thread = None

    def _run(self, parent: Any) -> None:
        """Work until ``_stopping`` is set."""
        raise NotImplementedError


class LoopStep(ThreadStep):
    """Runs a loop in workers that consume a queue."""

    queue: str
    make_loop: Callable[[Runtime], Loop]

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = self.queue in parent.app.amqp.queues.consume_from
        self._loop: Loop | None = None

    def stop(self, parent: Any) -> None:
        """Start no new work, and wait for work under way."""
        self._stopping.set()
        if (loop := self._loop) is not None:
            tasks.process.call_soon(loop.stop)
        super().stop(parent)

    def _run(self, parent: Any) -> None:  # noqa: ARG002  # as its base calls it
        problem = ""
        while not self._stopping.is_set():
            try:
                tasks.process.runtime()
                tasks.process.run(self._work)
            except VaultError as error:
                if str(error) != problem:
                    log.warning("loop.postponed", name=self.name, error=str(error))
                problem = str(error)
            except Exception:  # whatever failed, readers or users wait for the work that comes next
                log.exception("loop.crashed", name=self.name)
            self._stopping.wait(RETRY_SECONDS)

    async def _work(self) -> None:
        self._loop = type(self).make_loop(tasks.process.runtime())
        if self._stopping.is_set():
            return
        await self._loop.run()


class RefreshRequestStep(LoopStep):
    """Runs ``RefreshRequests``."""

    queue = "interactive"
    name = "refresh requests"

    @staticmethod
    def make_loop(runtime: Runtime) -> RefreshRequests:
        """Make the loop."""
        return RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants)


class ChangedUsersStep(LoopStep):
    """Runs ``ChangedUsers``."""

    queue = "sync"
    name = "changed users"

    @staticmethod
    def make_loop(runtime: Runtime) -> ChangedUsers:
        """Make the loop."""
        return ChangedUsers(runtime.vault, runtime.sync_users, runtime.tenants)


class RenewalStep(ThreadStep):
    """Renews due grants when no tick arrives.

    Syncs can occupy all threads of the pool, and anybody who may write to Redis can remove ticks: neither may stop
    renewals.
    """

    name = "renewals"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.enabled = RENEW_QUEUE in parent.app.amqp.queues.consume_from
        self._interval = MISSED_TICKS * float(parent.app.conf.beat_schedule["renew"]["schedule"])

    def _run(self, parent: Any) -> None:  # noqa: ARG002  # as its base calls it
        wait, problem = self._interval, ""
        while not self._stopping.wait(wait):
            wait = tasks.last_renewal.began_at + self._interval - time.monotonic()
            if wait > 0:
                continue
            try:
                tasks.renew_due.run()
                problem = ""
            except VaultError as error:
                if str(error) != problem:
                    log.warning("renewal.postponed", error=str(error))
                problem = str(error)
            except Exception:  # whatever failed, the next run has to come
                log.exception("renewal.run_crashed")
            wait = self._interval


class BrokerKeysStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
    """Repairs the keys in Redis before a worker consumes.

    A key of a wrong type makes the consumer fail; Celery then restarts it, beginning with this step.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: Any) -> None:
        """Repair the keys of all queues."""
        queues = (queue.name for queue in parent.app.amqp.queues.consume_from.values())
        # Any worker may send a task to any queue.
        every = {*queues, *(queue.name for queue in parent.app.conf.task_queues)}
        # The consumer's own connection may already wait for messages (after mingle), and then takes no other command.
        with parent.app.connection_for_read() as connection, connection.channel() as channel:
            broker.repair_keys(channel.client, sorted(every))


class ConsumingStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
    """Records whether a worker consumes its queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Record that the worker consumes."""
        parent.controller.consumes = True

    def stop(self, parent: Any) -> None:
        """Record that it does not, as without a broker."""
        parent.controller.consumes = False

    shutdown = stop


class HeartbeatStep(ThreadStep):
    """Records the worker's heartbeats."""

    name = "heartbeat"
    stop_seconds = heartbeats.HEARTBEAT_SECONDS

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        parent.consumes = False

    def _run(self, parent: Any) -> None:
        started_at = datetime.now(UTC)
        while not self._stopping.is_set():
            queues = sorted(parent.app.amqp.queues.consume_from) if parent.consumes else []
            try:
                self._record(parent.hostname, queues, started_at)
            except Exception as error:  # whatever failed, the next heartbeat may succeed
                log.warning("heartbeat.failed", worker=parent.hostname, error=type(error).__name__)
            # When the worker starts or stops consuming, the next heartbeat follows within a second.
            for _ in range(int(heartbeats.HEARTBEAT_SECONDS)):
                if self._stopping.wait(1.0) or bool(queues) is not parent.consumes:
                    break

    def _record(self, worker: str, queues: list[str], started_at: datetime) -> None:
        vault = tasks.process.runtime().vault
        tasks.process.run(lambda: heartbeats.record(vault, worker, queues, started_at=started_at))


class MonitoringStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
    """Serves probes and metrics of the worker.

    It starts before the broker is reached: a worker that waits for Redis is alive, but not ready. Workers that consume
    ``renew`` export the vault's gauges; from others they would be duplicates.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._exports_vault = RENEW_QUEUE in parent.app.amqp.queues.consume_from
        self._stopping = threading.Event()
        self._serving = ExitStack()

    def start(self, parent: Any) -> None:
        """Start the server and the threads behind the probes."""
        found = settings.load()
        liveness, readiness = Liveness(found.liveness_file), ProcessReadiness(found.readiness_file)
        vault = VaultMetrics()
        exported = (vault, partial(_refresh, vault)) if self._exports_vault else ()
        self._serving = serve_metrics(found, liveness, readiness, *exported)
        arguments = (liveness, tasks.process.call_soon, self._stopping)
        threading.Thread(target=touch_while_answering, args=arguments, name="liveness", daemon=True).start()
        waiting = (readiness, partial(has_begun, parent), self._stopping)
        threading.Thread(target=wait_until_begun, args=waiting, name="readiness", daemon=True).start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002  # as Celery calls it
        """Stop the server and the threads."""
        self._stopping.set()
        self._serving.close()


def has_begun(worker: Any) -> bool:
    """Return whether a worker consumes, on a migrated vault.

    If so, Postgres has answered, and the keys are the vault's.
    """
    if not worker.consumes:
        return False
    try:
        current, head = revisions(database_url(tasks.process.runtime().settings))
    except VaultError:  # the tasks log it
        return False
    return current == head


def _refresh(metrics: VaultMetrics) -> None:
    runtime = tasks.process.runtime()
    tasks.process.run(lambda: metrics.refresh(runtime.vault, runtime.tenants))
