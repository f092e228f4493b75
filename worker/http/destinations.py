"""Checks hosts that an outgoing proxy will resolve."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from worker.http.addresses import may_connect

# A machine that reaches the Internet only through a proxy may have no name server that knows the host.
LOOKUP_SECONDS = 2.0
# How long a result is cached: a lookup for each request would cost more than the request.
CACHED_SECONDS = 60.0
MAX_CACHED_HOSTS = 1000


@dataclass(slots=True)
class Destinations:
    """Resolves hosts here, to see whether they are internal.

    A host that cannot be resolved here is left to the proxy.

    Attributes:
        named: the hosts that the operator names in the settings.
        clock: monotonic seconds.
    """

    named: Collection[str]
    clock: Callable[[], float] = time.monotonic
    _cached: dict[str, tuple[float, bool]] = field(default_factory=dict)

    async def is_internal(self, host: str) -> bool:
        """Return whether any address of a host is internal."""
        cached = self._cached.get(host)
        if cached is None or self.clock() - cached[0] > CACHED_SECONDS:
            if len(self._cached) >= MAX_CACHED_HOSTS:
                self._cached.clear()
            cached = self._cached[host] = (self.clock(), await self._look_up(host))
        return cached[1]

    async def _look_up(self, host: str) -> bool:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return False
        return not all(may_connect(host, str(address[0]), self.named) for *_, address in found)
