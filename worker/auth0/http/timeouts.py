"""How long an attempt may take."""

from __future__ import annotations

from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Timeouts:
    """How long one attempt may take, in seconds.

    Attributes:
        connect: until the connection stands.
        read: from one piece of an answer to the next.
        total: for the whole answer, also one that drips; where a body is streamed, for its head.
        silence: from one line of an event stream to the next; keep-alives are lines.
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
