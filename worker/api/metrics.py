"""The API's metrics, in Prometheus' format."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import Scope

from worker.metrics.vault_metrics import VaultMetrics

# In seconds. A read takes about a millisecond; one that waits for a refresh, some seconds.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)


def route_of(scope: Scope) -> str:
    """Return a served request's route pattern."""
    return str(getattr(scope.get("route"), "path", "none"))


# Cached pairs of route and status. There are fewer.
MAX_LABELS = 1000


class Metrics:
    """The metrics of one API process, and of the vault.

    Attributes:
        vault: refreshed before they are rendered.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.vault = VaultMetrics()
        self._registry.register(self.vault)
        self._reads = Counter(
            "token_vault_reads",
            "Reads over HTTP, by what came of them: served, rejected, or an error.",
            ("outcome",),
            registry=self._registry,
        )
        self._requests = Counter(
            "token_vault_api_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "token_vault_api_request_seconds",
            "How long requests take.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._hook_events = Counter(
            "token_vault_api_hook_events",
            "Events that hooks took, by what became of them.",
            ("hook", "outcome"),
            registry=self._registry,
        )
        # Cached, as looking up a label costs more than counting.
        self._counters = lru_cache(maxsize=MAX_LABELS)(self._find_counters)
        self.in_flight = Gauge(
            "token_vault_api_requests_in_flight", "Requests under way.", registry=self._registry
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request, by its route.

        Never by its path: paths name users, and there are too many of them.
        """
        requests, durations = self._counters(route_of(scope), status)
        requests.inc()
        durations.observe(seconds)

    def _find_counters(self, path: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(path, str(status)), self._seconds.labels(path)

    def count_read(self, outcome: str) -> None:
        """Count a read that was recorded for the audit."""
        self._reads.labels(outcome).inc()

    def count_hook_events(self, hook: str, outcome: str, number: int = 1) -> None:
        """Count events of a hook."""
        if number:
            self._hook_events.labels(hook, outcome).inc(number)

    def render(self) -> bytes:
        """Write all metrics as text."""
        text: bytes = generate_latest(self._registry)
        return text
