"""A provider's API that answers with any bytes, as a test scripts them."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.served import in_thread


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given.lower() == name]

    @property
    def token(self) -> str:
        (value,) = self.all("authorization")
        return value.removeprefix("Bearer ")


Answer = Callable[[Received], Iterable[bytes]]


def http(status: int = 200, body: bytes = b"{}", *headers: str, length: int | None = None) -> Iterable[bytes]:
    """An answer in order, unless its headers or length say otherwise."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    yield "\r\n".join([*lines, "", ""]).encode("latin-1")
    yield body


@dataclass
class Upstream:
    """Where it listens, what it got, and how it answers.

    Attributes:
        reads_bodies: before it answers; else never.
    """

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Answer = lambda _: http()
    reads_bodies: bool = True


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Listen on loopback; one thread a connection, closed after each answer."""
    found = Upstream()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            received = self._read()
            if received is None:
                return
            found.received.append(received)
            try:
                for piece in found.answer(received):
                    self.wfile.write(piece)
            except OSError:
                return  # the proxy has had enough

        def _read(self) -> Received | None:
            first = self.rfile.readline().decode("latin-1").split()
            if len(first) != 3:
                return None
            headers = []
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers.append((name, value.strip()))
            known = {name.lower(): value for name, value in headers}
            body = self._body(known) if found.reads_bodies else b""
            return Received(first[0], first[1], headers, body)

        def _body(self, headers: dict[str, str]) -> bytes:
            if headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline() or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(headers.get("content-length", 0)))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with in_thread(Server(("127.0.0.1", 0), Handler)) as found.url:
        yield found
