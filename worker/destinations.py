"""Judges hosts that an outgoing proxy resolves by itself."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from worker.addresses import may_connect

# A machine that reaches the Internet by a proxy alone may have no name server that knows the host.
LOOKUP_SECONDS = 2.0
# How long a judgement holds: a lookup for each request would cost more than the request.
JUDGED_SECONDS = 60.0
MAX_JUDGED = 1000


@dataclass(slots=True)
class Destinations:
    """Whether hosts lead inside, as seen from here.

    A host that cannot be resolved here is left to the proxy.

    Attributes:
        named: the hosts that the operator names in the settings.
        clock: monotonic seconds.
    """

    named: Collection[str]
    clock: Callable[[], float] = time.monotonic
    _judged: dict[str, tuple[float, bool]] = field(default_factory=dict)

    async def is_internal(self, host: str) -> bool:
        """Return whether any address of a host is internal."""
        judged = self._judged.get(host)
        if judged is None or self.clock() - judged[0] > JUDGED_SECONDS:
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            judged = self._judged[host] = (self.clock(), await self._look(host))
        return judged[1]

    async def _look(self, host: str) -> bool:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return False
        return not all(may_connect(host, str(address[0]), self.named) for *_, address in found)
