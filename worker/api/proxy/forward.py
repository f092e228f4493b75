"""Sends a call to a provider, and its answer back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from yarl import URL

from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker import traces
from worker.api import problems
from worker.api.problems import ApiProblem
from worker.api.proxy.headers import Headers, request_headers, response_headers, rewrite_location
from worker.api.proxy.request_body import BodyCut, BodyRefused, BodyTimeout, RequestBody
from worker.api.proxy.response_body import AnswerCut, Decoder, UnreadableEncoding, clean_body
from worker.api.proxy.scrub import TokenScrubber
from worker.api.proxy.session import ProviderSession
from worker.http.client import without_frames
from worker.proxy_rules import encode_path
from worker.settings import ProxySettings

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 5.0
# Until a connection is there: the wait for a free one included, and for an outgoing proxy's tunnel.
CONNECTION_WAIT_SECONDS = 15.0
# After which a caller may try again whose provider did not answer.
RETRY_SECONDS = 5.0

_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Tokens(Protocol):
    """Where the provider's token for a call comes from."""

    async def current(self) -> Secret:
        """Return a fresh token."""

    async def replace(self) -> Secret:
        """Return another, as the provider refused the last."""

    async def report_rejected(self) -> None:
        """Have another made for the next call."""


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """A call that is allowed.

    Attributes:
        connection: whose provider is called.
        path: as ``normalize_path`` returns it.
        query: as ``check_query`` returns it.
        prefix: the proxy's own path of the connection.
        ends_at: when the call is ended, by the event loop's clock.
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
        """How long the call may go on.

        Never 0, which would mean no limit.
        """
        return max(0.001, self.ends_at - asyncio.get_running_loop().time())


async def forward(
    session: ProviderSession,
    settings: ProxySettings,
    call: ProxyCall,
    body: RequestBody,
    tokens: Tokens,
) -> Response:
    """Call the provider; where it refuses the token, once more.

    Raises:
        ApiProblem: the call cannot be made, or its answer cannot be passed on.
        VaultError: there is no token.
    """
    try:
        begun = await body.begin()
    except BodyRefused as error:
        raise _refusal(error) from None
    is_repeatable = body.is_complete
    used = [await tokens.current()]
    request = _ProviderRequest(session, settings, call, begun, body)
    answer = await request.send(used[-1])
    if answer.status == 401 and is_repeatable:
        if replacement := await _replace(tokens, answer):
            used.append(replacement)
            answer = await request.send(replacement)
    elif answer.status == 401:
        await tokens.report_rejected()
    try:
        return _response(settings, call, answer, TokenScrubber([each.reveal() for each in used]))
    except BaseException:
        answer.close()
        raise


def _refusal(refused: BodyRefused) -> ApiProblem:
    if isinstance(refused, BodyTimeout):
        return problems.slow_request(str(refused))
    if isinstance(refused, BodyCut):
        return ApiProblem("bad-request", str(refused))
    return ApiProblem("too-large", str(refused))


async def _replace(tokens: Tokens, refused: aiohttp.ClientResponse) -> Secret | None:
    """Return another token, and release the refused answer.

    None where none comes in time: then the provider's own answer is the one to pass on.
    """
    try:
        replacement = await tokens.replace()
    except TemporarilyUnavailable:
        return None
    except BaseException:
        refused.close()
        raise
    refused.close()
    return replacement


@dataclass(frozen=True, slots=True)
class _ProviderRequest:
    """A call as the provider gets it.

    Attributes:
        begun: the body's beginning; all of it where it is complete.
    """

    session: ProviderSession
    settings: ProxySettings
    call: ProxyCall
    begun: bytes
    body: RequestBody

    async def send(self, token: Secret) -> aiohttp.ClientResponse:
        """Return the answer's head.

        Raises:
            ApiProblem: there is none.
        """
        call = self.call
        name = f"{call.method} provider API"
        with traces.span(name, "client", method=call.method, connection=call.connection) as span:
            answer = await self._request(token)
            span.set_status(answer.status)
        return answer

    async def _request(self, token: Secret) -> aiohttp.ClientResponse:
        answer = await self._try_request(token)
        if isinstance(answer, aiohttp.ClientResponse):
            return answer
        # Here, and not where it failed: those frames hold the request's headers, the token among them.
        if isinstance(answer, Exception):
            raise answer
        if self.body.refused is not None:
            raise _refusal(self.body.refused)
        connection = self.call.connection
        log.warning("proxy.call_failed", connection=connection, error=answer)
        raise problems.unavailable(f"the API behind connection {connection} does not answer", RETRY_SECONDS)

    async def _try_request(self, token: Secret) -> aiohttp.ClientResponse | str | Exception:
        """Return the answer, a failure's name, or an unexpected error."""
        call, settings, body = self.call, self.settings, self.body
        headers = request_headers(call.headers, token.reveal())
        if not body.is_complete:
            headers += [(name, value) for name, value in call.headers if name.lower() == "content-length"]
        url = _url(settings, call)
        outgoing = self.session.proxies.of(str(url))
        try:
            async with asyncio.timeout(None) as stall:
                return await self.session.http.request(
                    call.method,
                    url,
                    proxy=outgoing.url if outgoing else None,
                    proxy_headers=outgoing.headers if outgoing else None,
                    headers=headers,
                    data=(self.begun or None) if body.is_complete else _upload(body, stall, settings.timeout),
                    skip_auto_headers=("User-Agent", "Content-Type"),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=call.seconds_left,
                        connect=CONNECTION_WAIT_SECONDS,
                        sock_connect=CONNECT_SECONDS,
                        sock_read=settings.timeout,
                    ),
                )
        except (
            aiohttp.ClientHttpProxyError,
            aiohttp.ClientProxyConnectionError,
            aiohttp.ClientSSLError,
        ) as error:
            blamed = outgoing if outgoing and not outgoing.is_beyond(error) else None
            return blamed.explain(error) if blamed else type(error).__name__
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return type(error).__name__
        except Exception as error:
            return without_frames(error)


async def _upload(body: RequestBody, stall: asyncio.Timeout, seconds: float) -> AsyncIterator[bytes]:
    """Yield a body, and end a call that stalls.

    The HTTP client itself would wait without end for a provider that takes none of it.
    """
    now = asyncio.get_running_loop().time
    async for piece in body.stream():
        with suppress(RuntimeError):  # the provider has answered already, and takes the rest or not
            stall.reschedule(now() + seconds)
        yield piece
        with suppress(RuntimeError):
            stall.reschedule(None)  # it is the caller's turn


def _url(settings: ProxySettings, call: ProxyCall) -> URL:
    query = f"?{call.query}" if call.query else ""
    # As it is: encoded anew it might mean something else than what was allowed.
    return URL(f"{settings.base_url}{encode_path(call.path)}{query}", encoded=True)


def _response(
    settings: ProxySettings, call: ProxyCall, answer: aiohttp.ClientResponse, scrubber: TokenScrubber
) -> Response:
    """Return a provider's answer as the caller gets it.

    Raises:
        ApiProblem: it cannot be passed on.
    """
    headers = _passable(answer.raw_headers, scrubber)
    decoder = _check(settings, answer)
    location = None
    if given := answer.headers.get("location"):
        location = rewrite_location(given, str(answer.url), settings.base_url, call.prefix)
        if location and scrubber.contains_token(location.encode()):
            location = None
    sent = response_headers(headers, location)
    if call.method == "HEAD" or answer.status in (204, 205, 304):
        answer.close()
        return _with_headers(Response(status_code=answer.status), sent)
    pieces = clean_body(_pieces(answer), decoder, scrubber, settings.max_response_bytes)
    return _with_headers(_Streamed(pieces, answer, call.connection), sent)


def _passable(raw: Iterable[tuple[bytes, bytes]], scrubber: TokenScrubber) -> Headers:
    """Return the headers that hold no token."""
    lines = [
        (name, value)
        for name, value in raw
        if _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)
    ]
    # One search for all of them, as nearly never one has a token.
    if scrubber.contains_token(b"\n".join(name + b": " + value for name, value in lines)):
        lines = [line for line in lines if not scrubber.contains_token(b": ".join(line))]
    return [(name.decode("ascii"), value.decode("latin-1")) for name, value in lines]


def _check(settings: ProxySettings, answer: aiohttp.ClientResponse) -> Decoder:
    """Return what decodes an answer that can be passed on."""
    if not 200 <= answer.status <= 599:
        raise ApiProblem("bad-gateway", f"the provider answers with the status {answer.status}")
    if any(
        each.partition(";")[0].strip() == "text/event-stream" for each in _elements(answer, "content-type")
    ):
        raise ApiProblem(
            "bad-gateway", "the provider answers with server-sent events, which are not forwarded"
        )
    if (answer.content_length or 0) > settings.max_response_bytes:
        raise ApiProblem("bad-gateway", f"the answer has more than {settings.max_response_bytes} bytes")
    # The HTTP client leaves a body packed that only its transfer coding says to be (RFC 9112, 6.1).
    if set(_elements(answer, "transfer-encoding")) - {"chunked"}:
        raise ApiProblem("bad-gateway", "the answer has a transfer coding that nobody asked for")
    try:
        return Decoder(", ".join(answer.headers.getall("content-encoding", [])))
    except UnreadableEncoding:
        raise ApiProblem(
            "bad-gateway", "the answer is compressed in a way in which no token could be found"
        ) from None


def _elements(answer: aiohttp.ClientResponse, header: str) -> list[str]:
    """Return what a header lists, in all its lines."""
    lines = answer.headers.getall(header, [])
    return [element.strip().lower() for line in lines for element in line.split(",") if element.strip()]


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except (aiohttp.ClientError, TimeoutError) as error:
        name = type(error).__name__
    else:
        return
    raise AnswerCut(f"the provider's answer broke off: {name}")


class _Streamed(StreamingResponse):
    """Passes a body on, then releases the provider.

    Raises:
        AnswerCut: it broke off; the server closes the caller's connection.
    """

    def __init__(self, pieces: AsyncIterator[bytes], answer: aiohttp.ClientResponse, connection: str) -> None:
        super().__init__(pieces, answer.status)
        self._upstream, self._connection = answer, connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._upstream.content.is_eof():
                # The whole has come: there is nothing to end early where the caller goes away.
                await self.stream_response(send)
            else:
                await super().__call__(scope, receive, send)
        except AnswerCut as cut:
            log.warning("proxy.answer_broken", connection=self._connection, error=str(cut))
            raise
        finally:
            self._upstream.close()


def _with_headers(response: Response, headers: Headers) -> Response:
    # The framework's own would add a length and a type that are not the provider's.
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return response
