"""All metrics that the program has, by the name that Prometheus sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from worker import instruments
from worker.api.metrics import Metrics
from worker.metrics.spool_metrics import SpoolMetrics
from worker.metrics.vault_metrics import GAUGES, PREFIX


class Metric(NamedTuple):
    """One metric."""

    kind: str
    labels: tuple[str, ...]


def all_metrics() -> dict[str, Metric]:
    """Those of workers, beat and the API, but for what prometheus-client tells of a process."""
    found = dict(_instruments(vars(instruments))) | dict(_instruments(vars(Metrics())))
    found |= {f"{PREFIX}{name}": Metric("gauge", labels) for name, _, labels in GAUGES.values()}
    found |= {f"{PREFIX}database_up": Metric("gauge", ())}
    (spool,) = SpoolMetrics(Path("none")).collect()
    return found | {spool.name: Metric(str(spool.type), ("state",))}


def _instruments(variables: dict[str, Any]) -> Iterator[tuple[str, Metric]]:
    for each in variables.values():
        if isinstance(each, MetricWrapperBase):
            suffix = "_total" if each._type == "counter" else ""
            yield f"{each._name}{suffix}", Metric(str(each._type), tuple(each._labelnames))


def samples(text: str) -> dict[str, float]:
    """The values of an answer, by name and labels as they are written."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def sample(name: str, **labels: str) -> str:
    """A sample's name as it is written: its labels in order."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"token_vault_{name}{{{inside}}}" if inside else f"token_vault_{name}"
