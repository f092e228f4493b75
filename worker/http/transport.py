"""Sends httpx's requests with aiohttp, also through proxies."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import httpx
import structlog
from aiohttp.abc import ResolveResult
from httpx_aiohttp import AiohttpTransport

from worker.http.addresses import may_connect
from worker.http.destinations import Destinations
from worker.http.outgoing_proxies import OutgoingProxies, OutgoingProxy

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 100
KEEPALIVE_SECONDS = 15.0
# aiohttp takes 128 headers of 8 kB: an answer with a longer content security policy would be lost, and with it the
# only copy of a rotated refresh token.
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 512


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the TLS context of all clients.

    It is made once, as reading the certificates takes 20 ms.
    """
    return httpx.create_ssl_context()


class OutgoingProxyFailed(httpx.ProxyError):
    """The outgoing proxy opened no tunnel; nothing was sent.

    Its message names the proxy and the fix, without credentials.
    """


class HttpTransport(httpx.AsyncBaseTransport):
    """aiohttp as httpx's transport: three times the requests per core.

    It calls directly, or through the URL's outgoing proxy.

    Args:
        max_connections: how many are open at a time; further requests wait.
        keepalive_seconds: how long an idle connection is kept; None for one connection per request.
        resends_lost: whether aiohttp repeats a GET whose connection broke before an answer.
        before_write: called when the connection is open and nothing is written yet; if it raises, nothing is sent.
        named: the hosts that the operator names: only these may resolve to internal addresses. None for no check.
        proxies: by default those of the environment.
    """

    def __init__(
        self,
        *,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_seconds: float | None = KEEPALIVE_SECONDS,
        resends_lost: bool = True,
        before_write: Callable[[], None] | None = None,
        named: Collection[str] | None = None,
        proxies: OutgoingProxies | None = None,
    ) -> None:
        self._proxies = OutgoingProxies.read() if proxies is None else proxies
        self._open = functools.partial(
            _PooledTransport,
            max_connections=max_connections,
            keepalive_seconds=keepalive_seconds,
            resends_lost=resends_lost,
            before_write=before_write,
            named=named,
        )
        self._pools: dict[OutgoingProxy | None, _PooledTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; every failure is an ``httpx.TransportError``."""
        proxy = self._proxies.of(str(request.url))
        if proxy not in self._pools:
            self._pools[proxy] = self._open(proxy)
        return await self._pools[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()


@dataclass(slots=True)
class _Progress:
    """How far a request has come.

    Attributes:
        is_connecting: a new connection was begun for it.
        is_written: its first byte may have been written.
    """

    is_connecting: bool = False
    is_written: bool = False


_PROGRESS: ContextVar[_Progress] = ContextVar("progress")


class _PooledTransport(AiohttpTransport):
    """Connections of one route: direct, or through one proxy."""

    def __init__(
        self,
        outgoing_proxy: OutgoingProxy | None,
        *,
        max_connections: int,
        keepalive_seconds: float | None,
        resends_lost: bool,
        before_write: Callable[[], None] | None,
        named: Collection[str] | None,
    ) -> None:
        super().__init__(
            verify=tls_context(),
            limits=httpx.Limits(max_connections=max_connections),
            proxy=httpx.Proxy(outgoing_proxy.url, headers=outgoing_proxy.headers) if outgoing_proxy else None,
        )
        self._outgoing_proxy = outgoing_proxy
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._resends_lost = resends_lost
        self._before_write = before_write
        self._named = named
        # A proxy resolves names itself, so names are checked here before the proxy is asked.
        self._destinations = None if outgoing_proxy is None or named is None else Destinations(named)

    def get_client(self) -> aiohttp.ClientSession:
        """Open the session; httpx-aiohttp calls this once."""
        is_resolved_here = self._named is not None and self._outgoing_proxy is None
        connector = aiohttp.TCPConnector(
            ssl=self.ssl_context,
            limit=self._max_connections,
            keepalive_timeout=self._keepalive_seconds,
            force_close=self._keepalive_seconds is None,
            resolver=_PublicResolver(self._named or ()) if is_resolved_here else None,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # httpx decodes
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            trace_configs=[_tracing(self._before_write)],
        )
        session._retry_connection = self._resends_lost
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; every failure is an ``httpx.TransportError``."""
        if self._destinations and await self._destinations.is_internal(request.url.host):
            raise httpx.ConnectError("the name leads to an internal address", request=request)
        progress = _Progress()
        _PROGRESS.set(progress)
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            # An error that the base class does not translate (an answer that is not HTTP) shows the request's headers
            # with the credentials in its repr, so it must not be chained.
            name, message = type(error).__name__, self._explain(error, progress)
            is_url = isinstance(error, aiohttp.InvalidURL)
        except httpx.TransportError as error:
            message = self._explain(error.__cause__ or error, progress)
            if message is None:
                raise
        if message is not None:
            log.warning("outgoing_proxy.failed", error=message)
            raise OutgoingProxyFailed(message, request=request)
        raise (httpx.UnsupportedProtocol if is_url else httpx.RemoteProtocolError)(name, request=request)

    def _explain(self, error: BaseException, progress: _Progress) -> str | None:
        """Say how the proxy failed; None if it did not."""
        if self._outgoing_proxy is None or progress.is_written or not progress.is_connecting:
            return None
        if self._outgoing_proxy.is_beyond(error):
            return None
        return self._outgoing_proxy.explain(error)


class _PublicResolver(aiohttp.ThreadedResolver):
    """Resolves names to addresses that requests may go to."""

    def __init__(self, named: Collection[str]) -> None:
        super().__init__()
        self._named = named

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a host's addresses, without internal ones.

        Raises:
            OSError: all are internal.
        """
        found = await super().resolve(host, port, family)
        allowed = [each for each in found if may_connect(host, each["host"], self._named)]
        if found and not allowed:
            raise OSError(None, "the name leads to an internal address")
        return allowed


def _tracing(before_write: Callable[[], None] | None) -> aiohttp.TraceConfig:
    """Have aiohttp record a request's progress.

    Args:
        before_write: called before the first byte.
    """

    async def on_create(
        session: aiohttp.ClientSession,  # noqa: ARG001
        context: SimpleNamespace,  # noqa: ARG001
        connecting: aiohttp.TraceConnectionCreateStartParams,  # noqa: ARG001
    ) -> None:
        _PROGRESS.get().is_connecting = True

    async def on_headers(
        session: aiohttp.ClientSession,  # noqa: ARG001
        context: SimpleNamespace,  # noqa: ARG001
        sent: aiohttp.TraceRequestHeadersSentParams,  # noqa: ARG001
    ) -> None:
        if before_write is not None:
            before_write()
        _PROGRESS.get().is_written = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(on_create)
    trace.on_request_headers_sent.append(on_headers)  # despite its name, it is called before they are sent
    return trace
