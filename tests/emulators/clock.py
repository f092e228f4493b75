"""The one clock of the emulation, and the two forms in which time travels."""

import time
from datetime import UTC, datetime


class Clock:
    """Real time with an offset, or standing still. Seconds since the epoch."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.frozen: float | None = None

    def now(self) -> float:
        """Say what time it is here."""
        return time.time() + self.offset if self.frozen is None else self.frozen

    def advance(self, seconds: float) -> float:
        """Move on by `seconds`, running or standing still as before."""
        if self.frozen is None:
            self.offset += seconds
        else:
            self.frozen += seconds
        return self.now()

    def set(self, epoch: float | None) -> float:
        """Stand still at `epoch`; with None run again, as real time."""
        self.frozen, self.offset = epoch, 0.0
        return self.now()


def iso(epoch: float) -> str:
    """Write a time as Auth0 does: UTC with milliseconds."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def milliseconds(text: str) -> int:
    """Read an ISO 8601 time, or a date, as whole milliseconds since the epoch. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
