"""The database's time, asked for once and counted on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from token_vault.elapsed_time import elapsed


class DatabaseClock:
    """Tells the database's time between two answers that name it.

    Args:
        now: the database's time.
        elapsed: monotonic, in seconds, those of a suspended machine too.
    """

    def __init__(self, now: datetime, *, elapsed: Callable[[], float] = elapsed) -> None:
        self._elapsed = elapsed
        self.set(now)

    def set(self, now: datetime) -> None:
        """Count on from what the database has just said."""
        self._said, self._at = now, self._elapsed()

    def now(self) -> datetime:
        """Return the database's time."""
        return self._said + timedelta(seconds=self._elapsed() - self._at)
