"""Passes a provider's answer on to the caller, without tokens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable

import aiohttp
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from worker.api.problems import ApiProblem
from worker.api.proxy.call import ProxyCall
from worker.api.proxy.headers import Headers, response_headers, rewrite_location
from worker.api.proxy.response_body import AnswerCut, Decoder, UnreadableEncoding, clean_body
from worker.api.proxy.scrub import TokenScrubber
from worker.settings import ProxySettings

log = structlog.get_logger(__name__)

_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def answer_caller(
    settings: ProxySettings, call: ProxyCall, answer: aiohttp.ClientResponse, scrubber: TokenScrubber
) -> Response:
    """Return the provider's answer as a response to the caller.

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
    """Return the valid headers that contain no token."""
    lines = [
        (name, value)
        for name, value in raw
        if _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)
    ]
    # All are searched at once, as a header hardly ever contains a token.
    if scrubber.contains_token(b"\n".join(name + b": " + value for name, value in lines)):
        lines = [line for line in lines if not scrubber.contains_token(b": ".join(line))]
    return [(name.decode("ascii"), value.decode("latin-1")) for name, value in lines]


def _check(settings: ProxySettings, answer: aiohttp.ClientResponse) -> Decoder:
    """Check an answer; return the decoder of its body.

    Raises:
        ApiProblem: ``bad-gateway``.
    """
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
    # The HTTP client does not decompress a body that is compressed by its transfer coding (RFC 9112, 6.1).
    if set(_elements(answer, "transfer-encoding")) - {"chunked"}:
        raise ApiProblem("bad-gateway", "the answer has a transfer coding that nobody asked for")
    try:
        return Decoder(", ".join(answer.headers.getall("content-encoding", [])))
    except UnreadableEncoding:
        raise ApiProblem(
            "bad-gateway", "the answer is compressed in a way in which no token could be found"
        ) from None


def _elements(answer: aiohttp.ClientResponse, header: str) -> list[str]:
    """Return the elements of a list header, in lower case."""
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
    """Streams a body to the caller, then closes the answer.

    Raises:
        AnswerCut: the body broke off. The server closes the caller's connection.
    """

    def __init__(self, pieces: AsyncIterator[bytes], answer: aiohttp.ClientResponse, connection: str) -> None:
        super().__init__(pieces, answer.status)
        self._upstream, self._connection = answer, connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._upstream.content.is_eof():
                # The whole body has arrived, so there is no need to watch whether the caller goes away.
                await self.stream_response(send)
            else:
                await super().__call__(scope, receive, send)
        except AnswerCut as cut:
            log.warning("proxy.answer_broken", connection=self._connection, error=str(cut))
            raise
        finally:
            self._upstream.close()


def _with_headers(response: Response, headers: Headers) -> Response:
    # Set raw, as the framework would add a length and a type that are not the provider's.
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return response
