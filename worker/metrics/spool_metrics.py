"""The gauge of answers in this machine's spool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class SpoolMetrics(Collector):
    """Counts the spool's files at each scrape.

    Args:
        folder: the spool's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge."""
        family = GaugeMetricFamily(
            "token_vault_spool_files",
            "Answers on disk: those that Postgres could not take yet, and those that it refused.",
            labels=("state",),
        )
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        answers = [name for name in names if not name.startswith(".")]
        rejected = sum(name.endswith(".rejected") for name in answers)
        family.add_metric(["waiting"], len(answers) - rejected)
        family.add_metric(["rejected"], rejected)
        yield family
