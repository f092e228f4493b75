"""The page on the HTTP API names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from worker.api.problems import PROBLEM_TYPES

PAGE = (Path(__file__).parents[3] / "docs/http-api.md").read_text(encoding="utf-8")


def test_every_problem_is_told() -> None:
    """The table of problems has each type with its status."""
    told = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE, re.M)
    assert told == [(each.code, str(each.status)) for each in PROBLEM_TYPES.values()]
