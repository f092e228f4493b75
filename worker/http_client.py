"""Makes HTTP clients: aiohttp under httpx, without state."""

from __future__ import annotations

import functools
import socket
import ssl
import zlib
from collections.abc import Callable, Collection, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import SimpleNamespace

import aiohttp
import httpx
from aiohttp.abc import ResolveResult
from httpx_aiohttp import AiohttpTransport

from worker import __version__
from worker.addresses import may_connect

MAX_CONNECTIONS = 100
KEEPALIVE_SECONDS = 15.0


def make_http_client(
    *,
    timeout: httpx.Timeout,
    headers: Mapping[str, str] | None = None,
    base_url: str = "",
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Make a client without cookies, redirects, ``.netrc``, or environment proxies.

    Args:
        timeout: what httpx enforces.
        headers: of every request, besides the user agent.
        base_url: what paths are relative to.
        transport: sends the requests; by default an ``HttpTransport``.
    """
    return httpx.AsyncClient(
        transport=transport or HttpTransport(),
        base_url=base_url,
        timeout=timeout,
        headers={
            "User-Agent": f"idp-token-vault/{__version__}",
            "Accept-Encoding": "identity",
            **(headers or {}),
        },
        # What is set in answer to one call must not go out with the next, which may be another user's.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the TLS context of all clients.

    Reading the certificates takes 20 ms.
    """
    return httpx.create_ssl_context()


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read a streamed body as it was sent, within bounds.

    httpx itself unpacks whatever comes, as often as it is told: kilobytes become gigabytes.

    Raises:
        httpx.DecodingError: it is longer, packed in an unknown way, or damaged.
        httpx.TransportError: it broke off.
    """
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise httpx.DecodingError("the body is too long", request=response.request)
    unpacked = unpack(bytes(body), response.headers.get("content-encoding", ""), max_bytes)
    if unpacked is None:
        raise httpx.DecodingError("the body is packed in no known way", request=response.request)
    if len(unpacked) > max_bytes:
        raise httpx.DecodingError("the body is too long", request=response.request)
    return unpacked


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Unpack one layer of a body that was packed unasked.

    Returns:
        At most a byte more than ``max_bytes``; None where it does not unpack, or several layers are named.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    unpacking = zlib.decompressobj(wbits=47 if "gzip" in encoding else 15)
    try:
        return unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        return None


class HttpTransport(AiohttpTransport):
    """aiohttp as httpx's transport: three times the requests per core.

    Args:
        max_connections: how many are open at a time; further requests wait.
        keepalive_seconds: how long an idle connection is kept; None for one connection per request.
        resends_lost: whether aiohttp sends a GET a second time whose connection broke before an answer.
        before_write: called when the connection stands and nothing is written yet; what it raises
            ends the request unsent.
        named: the hosts that the operator names; other names lead to no internal address. None for no such check.
    """

    def __init__(
        self,
        *,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_seconds: float | None = KEEPALIVE_SECONDS,
        resends_lost: bool = True,
        before_write: Callable[[], None] | None = None,
        named: Collection[str] | None = None,
    ) -> None:
        super().__init__(verify=tls_context(), limits=httpx.Limits(max_connections=max_connections))
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._resends_lost = resends_lost
        self._before_write = before_write
        self._named = named

    def get_client(self) -> aiohttp.ClientSession:
        """Open the session; httpx-aiohttp calls this once."""
        connector = aiohttp.TCPConnector(
            ssl=self.ssl_context,
            limit=self._max_connections,
            keepalive_timeout=self._keepalive_seconds,
            force_close=self._keepalive_seconds is None,
            resolver=None if self._named is None else _PublicResolver(self._named),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # httpx decodes
            trace_configs=[_calling(self._before_write)] if self._before_write else None,
        )
        session._retry_connection = self._resends_lost
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; every failure to is an ``httpx.TransportError``."""
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            # What the base class does not translate (an answer that is not HTTP) shows the request's headers in
            # its repr, the credentials among them: it must not be chained.
            name = type(error).__name__
            is_url = isinstance(error, aiohttp.InvalidURL)
        raise (httpx.UnsupportedProtocol if is_url else httpx.RemoteProtocolError)(name, request=request)


class _PublicResolver(aiohttp.ThreadedResolver):
    """Resolves names to addresses that requests may go to."""

    def __init__(self, named: Collection[str]) -> None:
        super().__init__()
        self._named = named

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a host's addresses but the internal ones.

        Raises:
            OSError: none is left.
        """
        found = await super().resolve(host, port, family)
        allowed = [each for each in found if may_connect(host, each["host"], self._named)]
        if found and not allowed:
            raise OSError(None, "the name leads to an internal address")
        return allowed


def _calling(before_write: Callable[[], None]) -> aiohttp.TraceConfig:
    """Have aiohttp call a function before the first byte."""

    async def on_headers(
        session: aiohttp.ClientSession,  # noqa: ARG001
        context: SimpleNamespace,  # noqa: ARG001
        sent: aiohttp.TraceRequestHeadersSentParams,  # noqa: ARG001
    ) -> None:
        before_write()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(on_headers)  # called before they are sent, whatever its name says
    return trace
