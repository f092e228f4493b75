"""A call through the proxy that the rules allow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from worker.api.proxy.headers import Headers


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """A call that is allowed.

    Attributes:
        connection: the connection whose provider is called.
        path: as ``normalize_path`` returns it.
        query: as ``check_query`` returns it.
        headers: the caller's.
        prefix: the proxy's own path of the connection, without a slash at its end.
        ends_at: when the call is aborted, by the event loop's clock.
    """

    connection: str
    method: str
    path: str
    query: str
    headers: Headers
    prefix: str
    ends_at: float

    @property
    def seconds_left(self) -> float:
        """For how many seconds the call may go on.

        Never 0, which would mean no limit.
        """
        return max(0.001, self.ends_at - asyncio.get_running_loop().time())
