"""The emulation's one clock, and its two time formats."""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """Real time with offset and speed, or standing still.

    Seconds since the epoch.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self.frozen: float | None = None
        self.speed = 1.0  # seconds here in one real second
        self._since = 0.0  # the real moment from which that speed holds
        self._changed = asyncio.Event()

    def now(self) -> float:
        """Say what time it is here."""
        if self.frozen is not None:
            return self.frozen
        real = time.time()
        return real + self.offset + (self.speed - 1) * (real - self._since)

    def advance(self, seconds: float) -> float:
        """Move on by `seconds`, running or standing still as before."""
        if self.frozen is None:
            self.offset += seconds
        else:
            self.frozen += seconds
        return self._tell()

    def set(self, epoch: float | None) -> float:
        """Stand still at `epoch`.

        With None run again, as real time.
        """
        self.frozen, self.offset, self.speed, self._since = epoch, 0.0, 1.0, 0.0
        return self._tell()

    def set_speed(self, speed: float) -> float:
        """Run at `speed` seconds a second from now on.

        Also starts a clock that stands still.
        """
        if speed <= 0:
            raise ValueError("the clock never stands still or runs back by its speed")
        now, self._since = self.now(), time.time()
        self.offset, self.speed, self.frozen = now - self._since, speed, None
        return self._tell()

    async def sleep_until(self, epoch: float) -> None:
        """Wait until the clock says `epoch`, however it is moved."""
        while (left := epoch - self.now()) > 0:
            changed = self._changed
            timeout = None if self.frozen is not None else left / self.speed
            try:
                await asyncio.wait_for(changed.wait(), timeout)
            except TimeoutError:
                continue

    def _tell(self) -> float:
        self._changed.set()
        self._changed = asyncio.Event()
        return self.now()


def iso(epoch: float) -> str:
    """Write a time as Auth0 does: UTC with milliseconds."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def milliseconds(text: str) -> int:
    """Read an ISO 8601 time as milliseconds since the epoch.

    A date is read as its first moment. Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
