"""What the program's HTTP clients share, against a server that counts."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from worker.http.client import make_http_client, read_body, unpack, without_frames
from worker.http.transport import HttpTransport

LEAK = "ya29.hunter2"


class Server:
    """Answers each request alike, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answer or not self.requests:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
                await writer.drain()
                if not self.answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*lines: str) -> AsyncIterator[Server]:
    server = Server("".join(f"{line}\r\n" for line in (*lines, "")).encode() if lines else b"")
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        yield server


def client(transport: HttpTransport | None = None) -> httpx.AsyncClient:
    return make_http_client(timeout=httpx.Timeout(5), transport=transport)


NO_CONTENT = ("HTTP/1.1 204 No Content", "Set-Cookie: session=1; Path=/")


async def test_nothing_is_carried_from_call_to_call() -> None:
    """A cookie that one answer sets is not sent with the next request."""
    async with serving(*NO_CONTENT) as server, client() as http:
        for _ in range(2):
            await http.get(
                server.url.replace("127.0.0.1", "localhost")
            )  # no client keeps cookies of an address
    assert server.connections == 1
    assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_a_redirect_is_an_answer() -> None:
    """Credentials go to the address they are meant for alone."""
    async with (
        serving("HTTP/1.1 302 Found", "Location: /other", "Content-Length: 0") as server,
        client() as http,
    ):
        assert (await http.get(server.url)).status_code == 302
    assert len(server.requests) == 1


async def test_without_keepalive_each_request_has_its_connection() -> None:
    """A connection is closed after its answer where the client keeps none."""
    async with serving(*NO_CONTENT) as server, client(HttpTransport(keepalive_seconds=None)) as http:
        for _ in range(2):
            await http.get(server.url)
    assert server.connections == 2


@pytest.mark.parametrize("resends", [True, False])
async def test_a_lost_get_is_sent_again_only_where_that_is_allowed(resends: bool) -> None:
    """aiohttp repeats a GET on a fresh connection, unless it is told not to."""
    async with serving() as server, client(HttpTransport(resends_lost=resends)) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(server.url)
    assert server.connections == (2 if resends else 1)


async def test_what_is_raised_before_the_first_byte_leaves_nothing_sent() -> None:
    """The last look comes when the connection stands, and ends the request unsent."""

    class TooLateError(Exception):
        pass

    def refuse() -> None:
        raise TooLateError

    async with serving(*NO_CONTENT) as server, client(HttpTransport(before_write=refuse)) as http:
        with pytest.raises(TooLateError):
            await http.post(server.url, content=b"refresh_token=1")
    assert server.connections == 1
    assert server.requests == []


async def test_a_failure_does_not_carry_the_request() -> None:
    """An answer that is no HTTP becomes an error without the request's headers."""
    async with serving("no HTTP") as server, client() as http:
        with pytest.raises(httpx.RemoteProtocolError) as error:
            await http.get(server.url, headers={"Authorization": f"Bearer {LEAK}"})
    assert LEAK not in str(error.value)
    assert error.value.__context__ is None


def packed(times: int, size: int = 64 << 20) -> bytes:
    """Zeros, packed so often: kilobytes, then bytes."""
    body = bytes(size)
    for _ in range(times):
        packing = zlib.compressobj(wbits=31)
        body = packing.compress(body) + packing.flush()
    return body


@asynccontextmanager
async def streaming(head: str, piece: bytes) -> AsyncIterator[str]:
    """Serve an answer that goes on for as long as somebody reads."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head.encode())
            while True:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"


async def read(url: str, max_bytes: int = 1 << 20) -> bytes:
    async with client() as http, http.stream("GET", url) as response:
        return await read_body(response, max_bytes)


@pytest.mark.parametrize(("times", "encoding"), [(1, "gzip"), (2, "gzip, gzip"), (2, "gzip"), (1, "br")])
async def test_a_bomb_is_not_unpacked(times: int, encoding: str) -> None:
    """However small an answer is, it takes a bounded memory, or is refused."""
    body = packed(times)
    answer = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    server = Server(answer.encode() + body)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        once = packed(1)
        tracemalloc.start()
        try:
            if (times, encoding) == (2, "gzip"):
                assert await read(url) == once
            else:
                with pytest.raises(httpx.DecodingError):
                    await read(url)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "GZip", " x-gzip "])
def test_an_encoding_has_no_case(encoding: str) -> None:
    """By RFC 9110, section 8.4.1, encodings are written in any case."""
    assert unpack(packed(1, 10), encoding, 100) == bytes(10)


def test_an_error_without_frames_has_no_other_error_s() -> None:
    """Neither the error's own frames nor those of what it came from remain."""
    error = RuntimeError("second")
    error.__context__ = error.__cause__ = ValueError("first")
    bare = without_frames(error)
    assert (bare.__traceback__, bare.__context__, bare.__cause__) == (None, None, None)


async def test_a_packed_answer_is_read() -> None:
    """One layer that a proxy has added is taken off."""
    body = packed(1, 1000)
    server = Server(
        f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        assert await read(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/") == bytes(1000)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"x" * 65_536),
        ("HTTP/1.1 200 OK\r\n", b"X-Endless: " + b"x" * 4000 + b"\r\n"),
        ("HTTP/1.1 200 OK\r\nX-Endless: ", b"x" * 65_536),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 500),
    ],
    ids=["body", "headers", "header", "hints"],
)
async def test_an_answer_without_end_is_given_up(head: str, piece: bytes) -> None:
    """A body, headers, a header and preliminary answers that go on without end end in a bounded memory."""
    async with streaming(head, piece) as url:
        tracemalloc.start()
        try:
            with pytest.raises((httpx.HTTPError, TimeoutError)):
                async with asyncio.timeout(2):
                    await read(url)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
