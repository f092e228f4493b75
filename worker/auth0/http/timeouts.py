"""How long an attempt may take."""

from __future__ import annotations

from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Timeouts:
    """How long one attempt may take, in seconds.

    Attributes:
        connect: until the connection is open.
        read: between two pieces of an answer.
        total: for the whole answer, however slowly it comes; for a streamed body, only for its head.
        silence: between two lines of an event stream, including keep-alives.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 60.0
    silence: float = 90.0

    def for_stream(self) -> httpx.Timeout:
        """Return what httpx enforces while an event stream is read."""
        return httpx.Timeout(self.silence, connect=self.connect, pool=self.total)

    def for_httpx(self) -> httpx.Timeout:
        """Return the part that httpx enforces."""
        return httpx.Timeout(self.read, connect=self.connect, pool=self.total)
