"""Connections that are slow, large or too many, on the server that serves the API."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.support.wait import until_async
from token_vault.errors import ConfigurationError
from worker.api import http_protocol
from worker.api.http_protocol import BoundedProtocol, allow_connections
from worker.api.metrics import Metrics
from worker.api.middleware import Gate
from worker.api.server import listen, make_config

GET = b"GET /x HTTP/1.1\r\nhost: x\r\n"
PIECE = bytes(1_000_000)


class App:
    """Answers at once; below ``/large`` with more than any socket buffers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.calls.append(path)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(50 if path == "/large" else 0):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b"whole"})
        self.ended.append(path)


@asynccontextmanager
async def running(app: App, max_connections: int = 1000) -> AsyncIterator[int]:
    """Serve an application, and give the port."""
    bound = listen("127.0.0.1", [0])
    config = make_config(Gate(app, metrics=Metrics(), max_concurrent=100), max_connections)
    config.lifespan = "off"
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve(sockets=[bound]))
    await until_async(lambda: server.started)
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def send(port: int, *pieces: bytes) -> bytes:
    """Send pieces one after the other; return all that is answered until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def problem(answer: bytes) -> tuple[int, str]:
    """Status and type of an answer that is a whole problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"content-type: application/problem+json" in lines
    assert b"connection: close" in lines
    assert b"content-length: %d" % len(body) in lines
    document = json.loads(body)
    assert int(lines[0].split()[1]) == document["status"]
    return document["status"], document["type"].rpartition(":")[2]


async def test_slow_headers_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers that do not come whole in time are refused, on a first request and on a later one."""
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.3)
    async with running(App()) as port:
        assert problem(await send(port, GET, b"a: b\r\n")) == (408, "request-timeout")
        later = await send(port, GET + b"\r\n", b"\r\n", GET)
        assert problem(later.partition(b"0\r\n\r\n")[2]) == (408, "request-timeout")
        assert await send(port) == b""  # nobody asked
        assert b"408" not in await send(port, GET + b"\r\n", b"\r\n")


@pytest.mark.parametrize(
    "headers",
    [
        b"a: " + b"x" * 70_000 + b"\r\n\r\n",
        b"a: " + b"x" * 70_000,  # without an end
        b"a: b\r\n" * 101 + b"\r\n",
        b"a: b\r\n" * 70_000,
    ],
    ids=["long", "endless", "many", "flood"],
)
async def test_large_headers_are_refused(headers: bytes) -> None:
    """Headers beyond the bounds reach no route, in one piece or in several."""
    app = App()
    async with running(app) as port:
        for pieces in ((GET + headers,), (GET, headers[:40_000], headers[40_000:])):
            # Who goes on sending may find the connection reset before the answer.
            answer = await send(port, *pieces)
            assert not answer or problem(answer) == (431, "headers-too-large")
        assert problem(await send(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"))[0] == 431
    assert app.calls == []


async def test_what_is_no_request_is_a_problem_document() -> None:
    """Bytes that are no HTTP are told so, in the form of every other refusal."""
    app = App()
    async with running(app) as port:
        for bad in (
            b"\x16\x03\x01\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /x HTTP/1.1\r\na b\r\n\r\n",
            b"GET \xff HTTP/1.1\r\n\r\n",
        ):
            assert problem(await send(port, bad)) == (400, "bad-request")
    assert app.calls == []


async def test_a_trailer_is_no_header() -> None:
    """What comes after a body names no caller and no request: whatever is in front judges headers alone."""
    seen: list[Scope] = []

    class Reading(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body"):
                pass
            seen.append(scope)
            await super().__call__(scope, receive, send)

    post = b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    async with running(Reading()) as port:
        answer = await send(port, post + b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        answer = await send(port, post + b"1\r\na\r\n0\r\n" + b"a: b\r\n" * 70_000 + b"\r\n")
        assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert [name for name, _ in seen[0]["headers"]] == [b"host", b"transfer-encoding", b"connection"]


async def test_garbage_behind_a_request_is_no_answer_to_it() -> None:
    """While an answer is under way, nothing else is written that could be taken for it or a part of it."""
    async with running(App()) as port:
        answer = await send(port, GET.replace(b"/x", b"/large") + b"\r\n", b"\xff\xff\r\n\r\n")
    assert b"0\r\n\r\n" not in answer[-5:]
    assert b"bad-request" not in answer


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who reads nothing of its answer holds its request for a bounded time."""
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 0.3)
    app = App()
    async with running(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(GET.replace(b"/x", b"/large") + b"\r\n")
            await until_async(lambda: app.ended == ["/large"])


async def test_who_reads_again_is_not_cut_off() -> None:
    """A pause of the caller does not end a long answer that it goes on reading."""
    connection: Any = BoundedProtocol.__new__(BoundedProtocol)
    connection.loop, connection._reading_due = asyncio.get_running_loop(), None
    connection.transport = SimpleNamespace(abort=lambda: None)
    connection.flow = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)
    connection.pause_writing()
    due = connection._reading_due
    connection.resume_writing()
    assert due.cancelled()
    assert connection._reading_due is None


async def test_too_many_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests over more connections are refused at once, health checks answered, and beyond it nothing is read."""
    monkeypatch.setattr(http_protocol, "RESERVED_CONNECTIONS", 2)
    app = App()
    async with running(app, max_connections=3) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        refused = await send(port, GET + b"\r\n")
        assert problem(refused) == (503, "temporarily-unavailable")
        assert b"retry-after: 1" in refused
        assert (await send(port, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")
        idle += [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert problem(await send(port)) == (503, "temporarily-unavailable")
        assert app.calls == ["/healthz"]
        for _, writer in idle:
            writer.close()
        for _ in range(1000):
            if (await send(port, GET + b"connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("there is no place again")


def test_connections_need_open_files() -> None:
    """More connections than the operating system allows are told at the start."""
    with pytest.raises(ConfigurationError, match="max_connections"):
        allow_connections(10**9)
