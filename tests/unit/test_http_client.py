"""What the program's HTTP clients share, against a server that counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from worker.http_client import HttpTransport, make_http_client

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
            await http.get(server.url)
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
