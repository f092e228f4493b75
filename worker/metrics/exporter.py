"""Serves metrics, liveness and readiness over plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread

# Of Prometheus' text format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A connection that sends no request within this time is closed.
REQUEST_SECONDS = 5.0


@contextmanager
def exporter(
    host: str,
    port: int,
    *,
    render: Callable[[], bytes],
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
) -> Iterator[int]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` from threads.

    Args:
        host: where to listen.
        port: to listen on; 0 for any free one.
        render: returns all metrics as text.
        is_alive: whether the process makes progress.
        is_ready: whether it has begun its work.

    Yields:
        The port.

    Raises:
        OSError: this process cannot listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:  # as http.server calls it
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(200, render(), CONTENT_TYPE)
                case "/healthz":
                    self._answer_probe(is_alive(), "ok", "hangs")
                case "/readyz":
                    self._answer_probe(is_ready(), "ready", "starts")
                case _:
                    self._answer(404, b"", "text/plain")

        def _answer_probe(self, holds: bool, yes: str, no: str) -> None:
            self._answer(200 if holds else 503, f"{yes if holds else no}\n".encode(), "text/plain")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing, as scrapers come every few seconds."""

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET

        def handle_error(self, *_: object) -> None:
            """Ignore scrapers that closed their connection."""

    with Server((host, port), Handler) as server:
        thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
