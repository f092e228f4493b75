"""How bytes travel: aiohttp under httpx, without cookies, proxies from the environment or redirects."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport


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
        """Return the part that httpx enforces while an event stream is read."""
        return httpx.Timeout(self.silence, connect=self.connect, pool=self.total)

    def for_httpx(self) -> httpx.Timeout:
        """Return the part that httpx enforces."""
        return httpx.Timeout(self.read, connect=self.connect, pool=self.total)


class Transport(AiohttpTransport):
    """aiohttp as httpx's transport: three times the requests a core of httpx's own."""

    def get_client(self) -> aiohttp.ClientSession:
        """Open the session; a cookie jar would carry state from one call to the next."""
        connector = aiohttp.TCPConnector(ssl=self.ssl_context, limit=self.limits.max_connections or 0)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; every failure is an ``httpx.TransportError``."""
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            # What the base class does not translate (an answer that is not HTTP) shows the request's
            # headers in its repr, the management token among them: it must not be chained.
            name = type(error).__name__
        raise httpx.RemoteProtocolError(name, request=request)
