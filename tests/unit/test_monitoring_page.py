"""docs/monitoring.md lists the metrics as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.metrics import Metric, all_metrics

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_page_lists_each_metric_with_its_kind_and_labels() -> None:
    """The page's metrics, kinds and labels are those of the code, no more and no fewer."""
    documented = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (name := re.fullmatch(r"`(token_vault_\w+)`", cells[0])):
            documented[name[1]] = Metric(cells[1], tuple(re.findall(r"`(\w+)`", cells[2])))
    assert documented == all_metrics()


def test_metrics_are_named_by_one_scheme() -> None:
    """A counter ends in _total, what is measured in seconds says so, and no label is a user or an account."""
    for name, metric in all_metrics().items():
        assert re.fullmatch(r"token_vault_[a-z0-9_]+", name)
        assert name.endswith("_total") is (metric.kind == "counter"), name
        assert metric.kind != "histogram" or name.endswith("_seconds"), name
        assert not {"user", "user_id", "account", "grant", "url", "path"} & set(metric.labels), name
