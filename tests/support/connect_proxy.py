"""An HTTP proxy on loopback that takes CONNECT, and can fail as proxies do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Failure = Literal["hangs", "breaks", "gone", "unknown"]


class ConnectProxy:
    """Carries tunnels to servers on loopback, by the names that clients ask for.

    Attributes:
        names: where each ``host:port`` leads: a port on loopback.
        asked: each request line, in order.
        credentials: what ``Proxy-Authorization`` has to be, where anything.
        failure: how it fails instead; a number is the status of its answer.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.asked: list[str] = []
        self.credentials: str | None = None
        self.failure: Failure | int | None = None
        self.port = 0
        self._is_over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, is_ready: threading.Event) -> None:
        """Serve until ``stop``."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        is_ready.set()
        await self._is_over.wait()
        # Its end is not waited for: from Python 3.12 on, that lasts until each client hangs up. asyncio.run cuts them off.
        server.close()

    def stop(self) -> None:
        """End it, and every tunnel."""
        assert self._loop
        self._loop.call_soon_threadsafe(self._is_over.set)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line = head.partition("\r\n")[0]
        self.asked.append(line)
        if self.failure == "hangs":
            await asyncio.sleep(3600)
        if self.failure == "breaks":
            return
        target = line.split()[1]
        status = self.failure if isinstance(self.failure, int) else self._status(head, target)
        length = "" if status == 200 else "Content-Length: 0\r\n"
        writer.write(f"HTTP/1.1 {status} Tunnel\r\n{length}\r\n".encode())
        await writer.drain()
        if status == 200:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.names[target])
            await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))

    def _status(self, head: str, target: str) -> int:
        wanted = self.credentials and f"proxy-authorization: {self.credentials}".lower()
        if wanted and wanted not in head.lower():
            return 407
        return 200 if target in self.names else 502


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while read := await reader.read(65536):
            writer.write(read)
            await writer.drain()
    writer.close()


@contextmanager
def connect_proxy() -> Iterator[ConnectProxy]:
    """Have a proxy on loopback."""
    proxy, is_ready = ConnectProxy(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(is_ready)), daemon=True)
    thread.start()
    is_ready.wait()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
