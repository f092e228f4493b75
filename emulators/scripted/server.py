"""An HTTP/1.1 server that can break at any byte.

Written on sockets, as no server of the shelf sends half an answer or a length that is not true.
"""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from emulators.scripted.provider import ScriptedProvider
from emulators.scripted.request import TokenRequest
from emulators.scripted.script import Script, json_answer

MAX_HEAD_BYTES = 65_536
START_SECONDS = 10.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: a reset instead of an orderly end


@dataclass(eq=False)
class ScriptedServer:
    """Providers on a loopback port, each below `/<name>/`."""

    providers: dict[str, ScriptedProvider]
    port: int = 0
    _resets: int = 0
    _loop: asyncio.AbstractEventLoop | None = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def token_url(self, name: str) -> str:
        """Give a provider's token endpoint."""
        return f"{self.url}/{name}/token"

    def release(self) -> None:
        """Answer all waiting requests, and let none wait again."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._released.set)

    def reset_connections(self, n: int) -> None:
        """Reset the next `n` connections before reading them."""
        self._resets = n

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=MAX_HEAD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        ready.set()
        await stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until either side ends it."""
        if self._resets > 0:
            self._resets -= 1
            _reset(writer)
            return
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while (request := await _read(reader)) is not None:
                    script = self._answer(request)
                    if math.isinf(script.delay):
                        await self._released.wait()
                    else:
                        await asyncio.sleep(script.delay)
                    if not await _send(script, writer):
                        break
        finally:
            writer.close()

    def _answer(self, request: TokenRequest) -> Script:
        name, _, rest = request.path.removeprefix("/").partition("/")
        provider = self.providers.get(name)
        if provider is None or rest != "token":
            return json_answer({"error": "not_found"}, 404)
        return provider.answer(request)


@contextmanager
def serving(*providers: ScriptedProvider) -> Iterator[ScriptedServer]:
    """Serve providers from a thread of their own."""
    server = ScriptedServer({provider.name: provider for provider in providers})
    ready, stops = threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        stops.append((asyncio.get_running_loop(), stop))
        await server.serve(ready, stop)

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="scripted-providers", daemon=True)
    thread.start()
    if not ready.wait(START_SECONDS):
        raise RuntimeError("the scripted providers do not start")
    try:
        yield server
    finally:
        [(loop, stop)] = stops
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _read(reader: asyncio.StreamReader) -> TokenRequest | None:
    """Read one request; None where the client has left."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    parted = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in parted}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return TokenRequest.read(method, target, headers, body)


async def _send(script: Script, writer: asyncio.StreamWriter) -> bool:
    """Send as much of an answer as the script says.

    False: the connection has ended.
    """
    head, payload = script.head(), script.payload()
    sent = {
        "before": b"",
        "mid_headers": head[: len(head) // 2],
        "after_headers": head,
        "mid_body": head + payload[: len(payload) // 2],
        "short_body": head + payload[: len(payload) // 2],
        None: head + payload,
    }[script.cut]
    writer.write(sent)
    with suppress(ConnectionError):
        await writer.drain()
    if script.cut is None:
        return True
    if script.cut != "short_body":
        await asyncio.sleep(0)  # what was written leaves before the reset
        _reset(writer)
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
