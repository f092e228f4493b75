"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from worker.plural import pluralize


@pytest.mark.parametrize(
    ("count", "nouns", "written"),
    [
        (0, ["grant"], "0 grants"),
        (1, ["grant"], "1 grant"),
        (2, ["grant"], "2 grants"),
        (1, ["grant is late", "grants are late"], "1 grant is late"),
        (11, ["grant is late", "grants are late"], "11 grants are late"),
        (0, ["delivery", "deliveries"], "0 deliveries"),
    ],
)
def test_one_alone_is_singular(count: int, nouns: list[str], written: str) -> None:
    """Only 1 has the noun and its verb in the singular."""
    assert pluralize(count, *nouns) == written
