"""``make scale --kills``, small."""

from __future__ import annotations

from pathlib import Path

from tests.scale.kills import sync_under_kills
from tests.scale.service import BEAT, EMPTIED, REDIS, WORKER


def test_a_kill_costs_a_page_at_the_most(tmp_path: Path) -> None:
    """Worker, beat and Redis die during a full sync, Redis once with its data: nobody is lost, nor asked for anew."""
    result = sync_under_kills(tmp_path, "essentials", 2500, kills=1, seed=1)
    assert sorted(kill.kind for kill in result.kills) == sorted([WORKER, BEAT, REDIS, EMPTIED])
    assert result.kept, result
    assert result.local > 0  # while Redis was away each process went by a budget of its own
