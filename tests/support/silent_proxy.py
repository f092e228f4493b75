"""A TCP proxy whose connections can go silent.

That is what a client sees when a host loses power, or a firewall forgets a connection.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class SilentProxy:
    """Carries bytes between clients on ``port`` and a loopback server."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._generation = 0
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def go_dead(self) -> int:
        """Silence all open connections without closing them; return their number."""
        self._generation += 1
        return len(self._ends) // 2

    def close(self) -> None:
        """End it, and every connection."""
        for end in (self._listening, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._server_port))
                self._ends += (near, far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(*ends, self._generation), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, generation: int) -> None:
        with suppress(OSError):
            while read := source.recv(65536):
                if generation != self._generation:
                    return
                target.sendall(read)
            if generation == self._generation:
                target.shutdown(socket.SHUT_WR)


@contextmanager
def silent_proxy(server_port: int) -> Iterator[SilentProxy]:
    """Have a line to a server on loopback."""
    line = SilentProxy(server_port)
    try:
        yield line
    finally:
        line.close()
