"""An address on loopback that leads to a server, and can lead elsewhere or nowhere."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Forwarder:
    """Carries bytes between clients on ``port`` and a loopback server.

    Attributes:
        target: the server's port; open connections stay with the server that they were made to.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._generation = 0
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def go_dead(self) -> int:
        """Silence all open connections without closing them; return their number.

        That is what a client sees when a host loses power, or a firewall forgets a connection.
        """
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
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self._ends += (near, far)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(*ends, self._generation), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, generation: int) -> None:
        with suppress(OSError):
            while read := source.recv(65536):
                if generation != self._generation:
                    return
                target.sendall(read)
        with suppress(OSError):
            if generation == self._generation:
                target.shutdown(socket.SHUT_WR)


@contextmanager
def forwarder(target: int) -> Iterator[Forwarder]:
    """Have a way to a server on loopback."""
    made = Forwarder(target)
    try:
        yield made
    finally:
        made.close()
