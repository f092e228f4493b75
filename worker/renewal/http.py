"""Sends a token request; reports whether it may have arrived.

The renewal depends on that: if the TCP connection was refused, the refresh token is unspent; if the answer never came,
it may be spent.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import httpx

from worker.http.client import DEFAULT_HEADERS, unpack, without_frames
from worker.http.transport import HttpTransport, OutgoingProxyFailed
from worker.providers import TokenRequest

# The longest call, including its answer. Claims last much longer.
CALL_SECONDS = 40.0
# How long to go on reading after that. A process that was paused finds that its time is over, while the answer, with the
# only copy of a rotated refresh token, is in the socket.
DRAIN_SECONDS = 1.0
# The longest wait for a connection, including name resolution. It ends well before the call does: once a call has
# timed out, nobody knows whether the request was sent.
CONNECT_SECONDS = 10.0
# Idle connections are closed before most providers close them: the outcome of a request that is sent while the provider
# closes the connection is in doubt.
KEEPALIVE_SECONDS = 5.0
# No token endpoint sends more than this; reading stops there.
MAX_ANSWER_BYTES = 1 << 20

_GZIP = b"\x1f\x8b\x08"

# Headers of every request; a provider's own are added.
_HEADERS = {
    "accept": "*/*",
    "connection": "keep-alive",
    **{name.lower(): value for name, value in DEFAULT_HEADERS.items()},
}

# The code of a call that failed at the outgoing proxy, so it says nothing about the provider.
PROXY_FAILED = "proxy_failed"

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A provider's answer.

    Its repr leaves out headers and body, which hold tokens.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer, or none that can be read.

    Attributes:
        sent: whether the request may have reached the provider.
        code: what happened, used as a refusal's code.
    """

    sent: bool
    code: str


@dataclass(slots=True, repr=False)
class _PartialAnswer:
    """The part of an answer that has arrived."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def answer(self) -> Answer:
        return Answer(self.status, self.headers, bytes(self.body))

    def complete(self) -> Answer | None:
        """Return the answer if its body is complete JSON.

        Nothing can follow such a body. Even if the connection breaks then, it may be the only copy of a rotated token.
        """
        return self.answer() if _is_json_object(self.body) else None


def _is_json_object(body: bytes | bytearray) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


class _TooLate(Exception):
    """The claim had too little time left; nothing was sent."""


def _always() -> bool:
    return True


_HAS_TIME: ContextVar[Callable[[], bool]] = ContextVar("has_time", default=_always)


def _raise_if_too_late() -> None:
    if not _HAS_TIME.get()():
        raise _TooLate


class HttpClient:
    """Sends requests over connections that stay open.

    It replaces httpx's client, whose cookies, redirects and ``.netrc`` are not wanted at a token endpoint, and take more
    time than the request itself.

    Attributes:
        timeout: enforced by the transport; ``send`` limits the whole call.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.timeout = httpx.Timeout(None, connect=5, pool=CONNECT_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    @asynccontextmanager
    async def stream(self, request: TokenRequest) -> AsyncIterator[httpx.Response]:
        """Send a request; yield the response to read.

        Raises:
            httpx.TransportError, httpx.InvalidURL, aiohttp.ClientError: there is no response.
        """
        # The URL of a GET holds the token, so it is not cached.
        url = httpx.URL(request.url) if request.body is None else _parse(request.url)
        headers = {**_HEADERS, **{name.lower(): value for name, value in request.headers.items()}}
        sent = httpx.Request(
            request.method,
            url,
            headers=headers,
            content=request.body,
            extensions={"timeout": self.timeout.as_dict()},
        )
        response = await self._transport.handle_async_request(sent)
        try:
            yield response
        finally:
            await response.aclose()


@functools.lru_cache(maxsize=256)
def _parse(url: str) -> httpx.URL:
    return httpx.URL(url)


def http_client(connections: int = 100, named: Collection[str] = ()) -> HttpClient:
    """Make the client that all renewals of a process share.

    Args:
        connections: the most open connections.
        named: the hosts that the operator names: only these may resolve to internal addresses.
    """
    return HttpClient(
        HttpTransport(
            max_connections=connections,
            keepalive_seconds=KEEPALIVE_SECONDS,
            resends_lost=False,  # the refresh token of a lost GET may be spent
            before_write=_raise_if_too_late,
            named=named,
        )
    )


async def send(
    http: HttpClient, request: TokenRequest, has_time: Callable[[], bool] = _always
) -> Answer | NoAnswer:
    """Send a token request once; it is never repeated here.

    Args:
        has_time: called when the connection is open and nothing is written yet. If the process was paused while it
            connected, its claim may have expired, and another worker may hold the grant.
    """
    _HAS_TIME.set(has_time)
    partial = _PartialAnswer()
    exchange = asyncio.create_task(_exchange(http, request, partial))
    try:
        for seconds in (CALL_SECONDS, DRAIN_SECONDS):
            if (await asyncio.wait({exchange}, timeout=seconds))[0]:
                return _result(exchange)
        return partial.complete() or NoAnswer(sent=True, code="timeout")
    finally:
        exchange.cancel()
        await asyncio.gather(exchange, return_exceptions=True)


def _result(exchange: asyncio.Task[Answer | NoAnswer]) -> Answer | NoAnswer:
    try:
        return exchange.result()
    except Exception as error:  # of an unexpected kind
        failure = without_frames(error)
    raise failure


async def _exchange(http: HttpClient, request: TokenRequest, partial: _PartialAnswer) -> Answer | NoAnswer:
    try:
        async with http.stream(request) as response:
            partial.status, partial.headers = response.status_code, response.headers
            async for chunk in response.aiter_raw():
                partial.body += chunk
                if len(partial.body) > MAX_ANSWER_BYTES:
                    return NoAnswer(sent=True, code="answer_too_large")
            return _decode(partial.answer())
    except _TooLate:
        return NoAnswer(sent=False, code="too_late")
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError):
        return NoAnswer(sent=False, code="bad_token_url")
    except UnicodeError as error:
        # Encoding fails for a host that is no name, decoding for an answer: then the request was sent.
        decoding = isinstance(error, UnicodeDecodeError)
        return NoAnswer(sent=decoding, code="connection_lost" if decoding else "bad_token_url")
    except (httpx.TransportError, httpx.DecodingError, aiohttp.ClientError) as error:
        return partial.complete() or _no_answer(error)


def _decode(answer: Answer) -> Answer | NoAnswer:
    """Unpack an answer that is packed despite ``Accept-Encoding``.

    It may hold the only copy of a rotated token. One layer is unpacked, in bounded memory; more is unreadable. JSON that
    is not packed is read whatever its label is, and gzip is unpacked without one.
    """
    label = answer.headers.get("content-encoding", "")
    unpacked_as = "gzip" if not label and answer.body.startswith(_GZIP) else label
    body = unpack(answer.body, unpacked_as, MAX_ANSWER_BYTES)
    if body is None:
        return answer if _is_json_object(answer.body) else NoAnswer(sent=True, code="connection_lost")
    if len(body) > MAX_ANSWER_BYTES:
        return NoAnswer(sent=True, code="answer_too_large")
    return Answer(answer.status, answer.headers, body)


def _no_answer(error: Exception) -> NoAnswer:
    """Classify a failure by aiohttp's exception.

    The httpx transport reports a reset after sending as a failure to connect.
    """
    if isinstance(error, OutgoingProxyFailed):
        return NoAnswer(sent=False, code=PROXY_FAILED)
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(cause, _NOT_SENT) or type(cause) in (httpx.ConnectError, httpx.PoolTimeout):
        return NoAnswer(sent=False, code="unreachable")
    timed_out = isinstance(cause, TimeoutError | httpx.TimeoutException)
    return NoAnswer(sent=True, code="timeout" if timed_out else "connection_lost")
