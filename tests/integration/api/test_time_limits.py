"""Callers and providers who are slow, byte by byte or altogether: each call has an end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.api_server import ApiClient
from tests.support.proxied_api import Proxied, problem
from tests.support.scripted_upstream import Received
from worker.api import body

DRIP_SECONDS = 0.1
LONG = bytes(8_000_000)  # more than sockets take that nobody reads


@pytest.fixture
def proxy_limits() -> str:
    """A byte is always there in time, and no call ends by itself."""
    return "timeout = 1\nmax_seconds = 2\n"


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Lasts until the test is over."""
    over = threading.Event()
    yield over
    over.set()


async def drip(url: str, head: str, *, begun: bytes = b"") -> bytes:
    """Send a request whose body comes byte by byte, without end; return the answer."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + begun)

    async def go_on() -> None:
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            writer.write(b"x")

    dripping = asyncio.create_task(go_on())
    answer = b""
    try:
        while piece := await reader.read(65_536):
            answer += piece
    except ConnectionError:  # the answer is there, and what was dripped behind it met a closed connection
        answer += bytes(reader._buffer)  # type: ignore[attr-defined]
    finally:
        dripping.cancel()
        writer.close()
    return answer


def document(answer: bytes) -> tuple[int, str]:
    """Status and type of a raw answer that is a whole problem document."""
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower(), answer
    assert b"content-length: %d\r\n" % len(text) in head.lower() + b"\r\n"
    assert b"connection: close" in head.lower()
    found = json.loads(text)
    return found["status"], found["type"].rpartition(":")[2]


async def test_a_body_that_drips_has_an_end(
    api: ApiClient, api_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte in time is not enough: the whole body has to come."""
    monkeypatch.setattr(body, "MAX_BODY_SECONDS", 0.5)
    head = (
        "POST /v1/users/oauth2%7Cu1/tokens/custom/rejected HTTP/1.1\nHost: x\n"
        f"Authorization: Bearer {api_key}\nContent-Length: 1000"
    )
    assert document(await drip(api.url, head)) == (408, "request-timeout")


async def test_a_proxied_body_that_drips_has_an_end(proxied: Proxied) -> None:
    """At its beginning, and once its first part is with the provider."""
    token = proxied.issuer.access_token("google-oauth2|1111")
    head = (
        f"POST {urlsplit(proxied.url).path}/v1/proxy/google-oauth2/calendar/v3/a HTTP/1.1\nHost: x\n"
        f"Authorization: Bearer {token}\nContent-Length: 1000000"
    )
    for answer in await asyncio.gather(
        drip(proxied.url, head), drip(proxied.url, head, begun=bytes(500_000))
    ):
        assert document(answer) == (408, "request-timeout")


def _without_end(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece
        threading.Event().wait(DRIP_SECONDS)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "head": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
}
SILENT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "chunks": CHUNKED + b"4\r\nhalf\r\n",
    "chunk": CHUNKED + b"4\r\nha",
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf",
}


def _name(got: Received) -> str:
    return got.target.rpartition("/")[2]


async def test_a_provider_s_answer_that_drips_has_an_end(proxied: Proxied) -> None:
    """Before it has begun it is a problem document; afterwards its connection is cut."""

    def answer(got: Received) -> Iterable[bytes]:
        begun, piece = DRIPS[_name(got)]
        yield begun
        yield from _without_end(piece)

    proxied.upstream.answer = answer
    calls = (proxied.call(f"/calendar/v3/{name}") for name in DRIPS)
    head, *bodies = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(head, httpx.Response)
    assert problem(head) == "temporarily-unavailable"
    assert [type(each) for each in bodies] == [httpx.RemoteProtocolError] * 2


async def test_a_provider_that_falls_silent_does_not_look_whole(
    proxied: Proxied, silence: threading.Event
) -> None:
    """Half an answer has no end, however its body is framed, and neither has what the caller gets."""

    def answer(got: Received) -> Iterable[bytes]:
        yield SILENT[_name(got)]
        silence.wait()

    proxied.upstream.answer = answer
    targets = (f"/v1/proxy/google-oauth2/calendar/v3/{name}" for name in SILENT)
    for raw in await asyncio.gather(*map(proxied.raw, targets)):
        assert raw.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding: chunked" in raw
        assert not raw.endswith(b"0\r\n\r\n")


async def _parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


@pytest.mark.parametrize("proxy_limits", ["timeout = 1\n"])
async def test_a_provider_that_takes_no_body_is_a_problem(proxied: Proxied, silence: threading.Event) -> None:
    """It is given up when it has taken nothing for the time-out, long before the call's end."""

    def answer(_: Received) -> Iterable[bytes]:
        silence.wait()
        yield b""

    proxied.upstream.reads_bodies, proxied.upstream.answer = False, answer
    calls = (proxied.call(method="POST", content=content) for content in (LONG, _parts(LONG)))
    for found in await asyncio.gather(*calls):
        assert problem(found) == "temporarily-unavailable"


async def test_a_provider_that_answers_before_the_body_is_heard(
    proxied: Proxied, silence: threading.Event
) -> None:
    """A refusal that comes while the caller still sends reaches it."""

    def answer(_: Received) -> Iterable[bytes]:
        yield b"HTTP/1.1 409 X\r\nContent-Length: 4\r\n\r\nbusy"
        silence.wait()

    proxied.upstream.reads_bodies, proxied.upstream.answer = False, answer
    found = await proxied.call(method="POST", content=_parts(LONG))
    assert (found.status_code, found.content) == (409, b"busy")
