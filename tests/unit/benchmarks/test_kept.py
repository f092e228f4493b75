"""What got worse than its noise is said; nothing else is."""

from __future__ import annotations

import pytest

from benchmarks.kept import NOISE, find_worse, load
from benchmarks.stage import Result


@pytest.mark.parametrize(
    ("target", "ratio", "is_worse"),
    [
        ("≥ 0.9", 1 - NOISE - 0.01, True),
        ("≥ 0.9", 1 - NOISE + 0.01, False),
        ("≥ 0.9", 2, False),
        ("≤ 1.5", 1 + NOISE + 0.01, True),
        ("≤ 1.5", 1 + NOISE - 0.01, False),
        ("< 3", 1 + NOISE + 0.01, True),
        ("flat (≤ 1.05)", 0.5, False),
    ],
)
def test_worse_is_beyond_noise(target: str, ratio: float, is_worse: bool) -> None:
    """A ratio is worse where it lies beyond the noise, on the side that is not wanted."""
    line = Result("after 1,234 renewals", "", "", str(ratio), target)
    assert bool(find_worse("memory", [line], {"memory: after N renewals": 1.0})) is is_worse


def test_a_new_line_is_not_worse() -> None:
    """What was never kept, or has no ratio, is compared with nothing."""
    assert (
        find_worse("read", [Result("new", "", "", "0.1", "≥ 1"), Result("old", "", "", "")], {"read: old": 1})
        == []
    )


def test_the_kept_numbers_are_ratios() -> None:
    """The file that is kept in the repository can be read."""
    assert all(ratio > 0 for ratio in load().values())
