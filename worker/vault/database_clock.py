"""A clock that is set to the database's time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from token_vault.elapsed_time import elapsed


class DatabaseClock:
    """Counts on from the database's time.

    Args:
        now: the database's time.
        elapsed: monotonic, in seconds, counting while the machine is suspended.
    """

    def __init__(self, now: datetime, *, elapsed: Callable[[], float] = elapsed) -> None:
        self._elapsed = elapsed
        self.set(now)

    def set(self, now: datetime) -> None:
        """Set the clock to the time just read."""
        self._set_to, self._set_at = now, self._elapsed()

    def now(self) -> datetime:
        """Return the database's time."""
        return self._set_to + timedelta(seconds=self._elapsed() - self._set_at)
