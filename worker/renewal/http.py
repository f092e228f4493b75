"""Sends one request to a token endpoint, and says of a failure whether the request may have arrived.

That decides everything: a connection that was refused never spent the refresh token, an answer that never came
may have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import aiohttp
import httpx

from worker.http_client import HttpTransport, make_http_client
from worker.providers import TokenRequest

# The longest possible call, in seconds, answer included. Claims last well beyond it.
CALL_SECONDS = 40.0
# After that, what has arrived already is still read: a process that was paused finds its time up and the answer,
# with the only copy of a rotated refresh token, waiting in the socket.
DRAIN_SECONDS = 1.0
# The longest wait for a connection, resolving the host's name included: it ends well before the call does, as
# at the end of a call nobody can say any more whether the request was sent.
CONNECT_SECONDS = 10.0
# An idle connection is closed by us before most providers close it: a request sent into a connection that the
# other end is just closing is an outcome in doubt.
KEEPALIVE_SECONDS = 5.0
# No token endpoint answers with more; what does is not read on.
MAX_ANSWER_BYTES = 1 << 20

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A provider's answer; it prints without headers and body, as they hold tokens."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer came.

    Attributes:
        sent: whether the request may have reached the provider.
        code: what happened, in a word.
    """

    sent: bool
    code: str


@dataclass(slots=True, repr=False)
class _Arriving:
    """What has come of an answer so far."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def answer(self) -> Answer:
        return Answer(self.status, self.headers, bytes(self.body))

    def whole(self) -> Answer | None:
        """The answer, where it is a JSON object that is closed: nothing can follow, so all of it is there.

        A peer that breaks off or falls silent just then has still handed over the only copy of a rotated token.
        """
        try:
            return self.answer() if isinstance(json.loads(self.body), dict) else None
        except (ValueError, RecursionError):
            return None


class _TooLate(Exception):
    """The claim's time was up before anything was written."""


def _always() -> bool:
    return True


_HAS_TIME: ContextVar[Callable[[], bool]] = ContextVar("has_time", default=_always)


def _raise_if_too_late() -> None:
    if not _HAS_TIME.get()():
        raise _TooLate


def http_client(connections: int = 100) -> httpx.AsyncClient:
    """Make the client that all of a process's renewals share."""
    return make_http_client(
        timeout=httpx.Timeout(None, connect=5, pool=CONNECT_SECONDS),  # the whole is timed by `send`
        transport=HttpTransport(
            max_connections=connections,
            keepalive_seconds=KEEPALIVE_SECONDS,
            resends_lost=False,  # the refresh token of a lost GET may be spent
            before_write=_raise_if_too_late,
        ),
    )


async def send(
    http: httpx.AsyncClient, request: TokenRequest, has_time: Callable[[], bool] = _always
) -> Answer | NoAnswer:
    """Send a refresh request once; nothing is ever repeated here.

    Args:
        has_time: asked when the connection stands and nothing is written yet: a process that was paused while
            connecting may wake when its claim is another's.
    """
    _HAS_TIME.set(has_time)
    arriving = _Arriving()
    exchange = asyncio.create_task(_exchange(http, request, arriving))
    try:
        for patience in (CALL_SECONDS, DRAIN_SECONDS):
            if (await asyncio.wait({exchange}, timeout=patience))[0]:
                return exchange.result()
        return arriving.whole() or NoAnswer(sent=True, code="timeout")
    finally:
        exchange.cancel()
        await asyncio.gather(exchange, return_exceptions=True)


async def _exchange(http: httpx.AsyncClient, request: TokenRequest, arriving: _Arriving) -> Answer | NoAnswer:
    try:
        async with http.stream(
            request.method, request.url, headers=dict(request.headers), content=request.body
        ) as response:
            arriving.status, arriving.headers = response.status_code, response.headers
            async for chunk in response.aiter_bytes():
                arriving.body += chunk
                if len(arriving.body) > MAX_ANSWER_BYTES:
                    return NoAnswer(sent=True, code="answer_too_large")
            return arriving.answer()
    except _TooLate:
        return NoAnswer(sent=False, code="too_late")
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError):
        return NoAnswer(sent=False, code="bad_token_url")
    except UnicodeError as error:  # a host that is no name; what does not decode had been sent
        decoding = isinstance(error, UnicodeDecodeError)
        return NoAnswer(sent=decoding, code="connection_lost" if decoding else "bad_token_url")
    except (httpx.TransportError, httpx.DecodingError, aiohttp.ClientError) as error:
        return arriving.whole() or _no_answer(error)


def _no_answer(error: Exception) -> NoAnswer:
    """Judge by aiohttp's own exception: the transport reports a reset after sending as a failure to connect."""
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(cause, _NOT_SENT) or type(cause) in (httpx.ConnectError, httpx.PoolTimeout):
        return NoAnswer(sent=False, code="unreachable")
    timed_out = isinstance(cause, TimeoutError | httpx.TimeoutException)
    return NoAnswer(sent=True, code="timeout" if timed_out else "connection_lost")
