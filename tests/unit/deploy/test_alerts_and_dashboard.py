"""The alert rules and the dashboard ask for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.metrics import Metric, all_metrics

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "deploy/grafana/token-vault.json"
ADDED_BY_PROMETHEUS = {"instance", "le"}


def metric_of(series: str) -> Metric | None:
    """The metric that a series is of."""
    known = all_metrics()
    for suffix in ("_bucket", "_sum", "_count"):
        if (found := known.get(series.removesuffix(suffix))) and found.kind == "histogram":
            return found
    return known.get(series)


@pytest.mark.parametrize(
    "file", [RULES, DASHBOARD, RULES.with_suffix(".test.yml")], ids=lambda file: file.name
)
def test_each_series_exists_with_its_labels(file: Path) -> None:
    """Each metric that is named is shown by some process, and has the labels that it is chosen by."""
    text = file.read_text(encoding="utf-8").replace('\\"', '"')
    found = re.findall(r"(token_vault_\w+)(?:\{([^}]*)\})?", text)
    assert len(found) > 4
    for series, selector in found:
        metric = metric_of(series)
        assert metric is not None, series
        assert set(re.findall(r"(\w+)!?=", selector)) <= {*metric.labels, *ADDED_BY_PROMETHEUS}, series


def test_the_dashboard_has_a_query_in_each_panel() -> None:
    """Each panel asks the chosen data source for something, and none lies over another."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(covered)) == len(covered)


def test_each_alert_is_told_with_its_fix() -> None:
    """docs/monitoring.md has a row for each alert, and for no other."""
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
    assert re.findall(r"^\| `(TokenVault\w+)` \|", page, re.M) == alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_takes_the_rules() -> None:
    """Prometheus' own tool finds the rules correct, and they fire when they should."""
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=RULES.parent, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
