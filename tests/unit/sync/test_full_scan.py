"""What a page of a scan says, and when it was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from worker.auth0 import UserPage
from worker.sync.full_scan import settled_range
from worker.sync.ingest import SEARCH_LAG
from worker.sync.keyset_pagination import ScanStep
from worker.vault.database_clock import DatabaseClock

ASKED = datetime(2026, 3, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def step(time_range: tuple[datetime | None, datetime | None] | None) -> ScanStep:
    """A page that was asked for at noon."""
    return ScanStep(UserPage((), None), (), time_range, None, None, ASKED)


def test_nobody_is_missing_who_came_after_the_question() -> None:
    """A page says nothing of users who were created when it was asked for, or later, however late it is stored."""
    for until in (None, ASKED + HOUR, ASKED):
        assert settled_range(step((None, until))) == (None, ASKED - SEARCH_LAG)
    assert settled_range(step((ASKED - 3 * HOUR, ASKED - HOUR))) == (ASKED - 3 * HOUR, ASKED - HOUR)
    assert settled_range(step(None)) is None


def test_the_databases_time_is_counted_on() -> None:
    """Between two answers that name it, the time goes on as this machine's does."""
    seconds = 100.0
    clock = DatabaseClock(ASKED, elapsed=lambda: seconds)
    seconds += 90
    assert clock.now() == ASKED + timedelta(seconds=90)
    clock.set(ASKED + HOUR)
    seconds += 1
    assert clock.now() == ASKED + HOUR + timedelta(seconds=1)
