"""Posts an event to a receiver, once, without redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import aiohttp
import httpx

from worker.http.client import make_http_client
from worker.http.transport import HttpTransport, OutgoingProxyFailed

# The longest call. A receiver should store the event, answer, and process it afterwards.
POST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class PostResult:
    """How an attempt ended.

    Attributes:
        status: the answer's; None if no answer came.
        error: a code that says why no answer came.
        headers: the answer's.
    """

    status: int | None
    error: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has the event."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_unavailable(self) -> bool:
        """Whether the receiver would now refuse any other event, too."""
        return self.status is None or self.status in (408, 425, 429) or self.status >= 500


def http_client(named: Collection[str] = ()) -> httpx.AsyncClient:
    """Make the client that all deliveries of a process share.

    Args:
        named: the receivers' hosts. Other hosts must not resolve to an internal address.
    """
    return make_http_client(
        timeout=httpx.Timeout(None, connect=5),  # `post` limits the whole call
        headers={"Content-Type": "application/json"},
        # A new connection for each event: the answer's body is not read, so its connection cannot be used again.
        transport=HttpTransport(keepalive_seconds=None, named=named),
    )


async def post(http: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> PostResult:
    """Post a body once. A failure is returned, not raised."""
    try:
        async with (
            asyncio.timeout(POST_SECONDS),
            http.stream("POST", url, content=body, headers=dict(headers)) as answer,
        ):
            return PostResult(answer.status_code, None, answer.headers)
    except TimeoutError:
        return PostResult(None, "timeout")
    except OutgoingProxyFailed:
        return PostResult(None, "proxy_failed")
    except (httpx.HTTPError, aiohttp.ClientError) as error:
        return PostResult(None, _code(error))
    except (httpx.InvalidURL, ValueError):  # a host that cannot be a DNS name raises a UnicodeError
        return PostResult(None, "bad_url")


def _code(error: Exception) -> str:
    """Return a failure's code, from aiohttp's own exception.

    httpx's exception is not reliable: a refused connection is reported as a timeout.
    """
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(cause, TimeoutError | httpx.TimeoutException):
        return "timeout"
    if isinstance(cause, aiohttp.ClientSSLError):
        return "tls_failed"
    return (
        "unreachable"
        if isinstance(cause, aiohttp.ClientConnectorError | httpx.ConnectError)
        else "connection_lost"
    )
