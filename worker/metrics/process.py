"""Serves the metrics of a worker or beat, if configured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from token_vault.errors import VaultError
from worker import instruments
from worker.liveness import Liveness
from worker.metrics.exporter import exporter
from worker.metrics.spool_metrics import SpoolMetrics
from worker.readiness import ProcessReadiness
from worker.settings import Settings

log = structlog.get_logger(__name__)


def serve_metrics(
    settings: Settings,
    liveness: Liveness,
    readiness: ProcessReadiness,
    vault: Collector | None = None,
    refresh: Callable[[], None] = lambda: None,
) -> ExitStack:
    """Serve metrics and probes until the stack is closed.

    A process that cannot listen works without them.

    Args:
        settings: have host and port; port 0 for no metrics.
        liveness, readiness: of the process.
        vault: the vault's gauges; None in a process that does not serve them.
        refresh: brings the vault's gauges up to date.
    """
    stack = ExitStack()
    where = settings.metrics
    if where.port == 0:
        return stack
    registry = CollectorRegistry()
    registry.register(SpoolMetrics(settings.spool))
    if vault is not None:
        registry.register(vault)

    def render() -> bytes:
        try:
            refresh()
        except VaultError as error:  # the vault is not open yet
            log.warning("metrics.query_failed", error=type(error).__name__)
        text: bytes = generate_latest(instruments.REGISTRY) + generate_latest(registry)
        return text

    try:
        stack.enter_context(
            exporter(
                where.host,
                where.port,
                render=render,
                is_alive=lambda: liveness.is_alive,
                is_ready=lambda: readiness.is_ready,
            )
        )
    except OSError as error:
        log.error("metrics.not_served", host=where.host, port=where.port, error=error.strerror)  # noqa: TRY400
    return stack
