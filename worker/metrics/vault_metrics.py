"""Gauges of the vault, from one statement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from token_vault.errors import VaultError
from worker.vault.status.measures import Measure, measure_vault
from worker.vault.vault import Database

log = structlog.get_logger(__name__)

# The result is kept for so long, as counting reads every grant.
CACHE_SECONDS = 15.0
# Prometheus ends a scrape after ten seconds. If Postgres is slow, it gets at least the process's own values.
QUERY_SECONDS = 5.0

_CONNECTION = ("tenant", "connection")
# By the metric's name in measures.sql: name, description, labels.
GAUGES = {
    "grants": ("grants", "Grants by state, as `token-vault status` counts them.", (*_CONNECTION, "state")),
    "ended_tokens": ("ended_tokens", "Access tokens past their end that could be renewed.", _CONNECTION),
    "soonest_end": (
        "soonest_end_seconds",
        "Seconds until the next renewable access token ends.",
        _CONNECTION,
    ),
    "late_renewals": (
        "late_renewals",
        "Grants whose renewal has been due for more than a minute.",
        _CONNECTION,
    ),
    "renewal_lag": (
        "renewal_lag_seconds",
        "For how long the oldest due renewal has been waiting.",
        _CONNECTION,
    ),
    "circuit": ("circuit_open", "1 while calls of a connection are stopped.", (*_CONNECTION, "blame")),
    "problem": (
        "connection_problem",
        "1 while no grant of a connection can be renewed.",
        (*_CONNECTION, "problem"),
    ),
    "paused": (
        "paused_seconds",
        "For how long the operator has paused a connection, its tenant or everything.",
        _CONNECTION,
    ),
    "deliveries": ("deliveries", "Deliveries of events that wait, or were given up.", ("state",)),
    "refresh_requests": ("refresh_requests_waiting", "Refresh requests that readers wait for.", ()),
    "changed_users": (
        "changed_users_waiting",
        "Users whom hooks named, and who are not synced yet.",
        ("tenant",),
    ),
    "workers": ("workers", "Workers that consume a queue.", ("queue",)),
    "last_sync": (
        "last_sync_timestamp_seconds",
        "When the last complete sync of its kind ended.",
        ("tenant", "scope"),
    ),
}
PREFIX = "token_vault_"


class VaultMetrics(Collector):
    """The vault's gauges, at most some seconds old.

    If Postgres does not answer, there is only ``token_vault_database_up``: old values would hide that nothing is known.
    """

    def __init__(self) -> None:
        self._measures: Sequence[Measure] = ()
        self._is_up = False
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def refresh(self, database: Database, tenants: Sequence[str]) -> None:
        """Query Postgres, unless that was done some seconds ago."""
        async with self._asking:
            if time.monotonic() - self._asked_at < CACHE_SECONDS:
                return
            try:
                async with asyncio.timeout(QUERY_SECONDS):
                    self._measures, self._is_up = await measure_vault(database, tenants), True
            except (SQLAlchemyError, VaultError, OSError) as error:
                self._measures, self._is_up = (), False
                log.warning("metrics.query_failed", error=type(error).__name__)
            self._asked_at = time.monotonic()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        yield GaugeMetricFamily(
            f"{PREFIX}database_up", "1 where Postgres has answered for these metrics.", value=self._is_up
        )
        families = {
            key: GaugeMetricFamily(f"{PREFIX}{name}", description, labels=labels)
            for key, (name, description, labels) in GAUGES.items()
        }
        for measure in self._measures:
            families[measure.metric].add_metric(_labels(measure), measure.value)
        if self._is_up:
            yield from families.values()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield nothing, as there are no values at registration."""
        yield from ()


def _labels(measure: Measure) -> list[str]:
    return [each for each in (measure.tenant, measure.connection, measure.label) if each is not None]
