"""uvicorn's HTTP/1.1 connection, with further limits.

uvicorn limits only idle time: a caller who sends headers byte by byte, or does not read the answer, could keep a
connection for any time.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from token_vault.errors import ConfigurationError
from worker.api.problems import ApiProblem, raw_problem

# From the connection's start, or the first byte of a further request, to the end of the headers.
HEADER_SECONDS = 10.0
# Names, values and target of one request together. Access tokens have a lower limit of their own.
MAX_HEADER_BYTES = 65_536
MAX_HEADERS = 100
TOO_LARGE = f"the headers are more than {MAX_HEADERS}, or have more than {MAX_HEADER_BYTES} bytes"
# A connection is aborted when its caller has read nothing for so long while data waits to be sent.
UNREAD_SECONDS = 30.0
# Allowed beyond ``max_connections``, for health checks: they are answered however many callers there are.
RESERVED_CONNECTIONS = 64
# Open files besides the connections to callers and providers: connections to Postgres, logs.
_OTHER_FILES = 256
# A key of a request's scope, set if there are more than ``max_connections``.
OVERLOADED = "token_vault.overloaded"


class BoundedProtocol(HttpToolsProtocol):
    """One caller's connection.

    Args:
        max_connections: at a time in this process. Requests over further connections are refused.
    """

    def __init__(self, *arguments: Any, max_connections: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._max_connections = max_connections
        self._headers_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None
        self._is_in_headers = False
        self._received_bytes = self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request's headers."""
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > self._max_connections + RESERVED_CONNECTIONS:
            self._refuse("temporarily-unavailable", "too many connections at a time")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_header_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; refuse headers that are too large."""
        if self.transport.is_closing():
            return
        if self._headers_due is None and not self._is_answering:
            self._expect_headers()
        super().data_received(data)
        # The parser does not report a header before its end, however long it is.
        if self._is_in_headers:
            self._received_bytes += len(data)
            if self._received_bytes > MAX_HEADER_BYTES:
                self._refuse("headers-too-large", TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count a request's header bytes."""
        super().on_message_begin()
        self._is_in_headers = True
        self._received_bytes = self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Receive a part of the target."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header; ignore a trailer (RFC 9110, 6.5.1)."""
        if self._is_in_headers:
            super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Begin to serve the request."""
        self._is_in_headers = False
        self._stop_header_timer()
        if len(self.connections) > self._max_connections:
            self.scope[OVERLOADED] = True  # type: ignore[literal-required]
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the caller to read, for a limited time."""
        super().pause_writing()
        self._reading_due = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on sending: the caller reads."""
        super().resume_writing()
        if self._reading_due is not None:
            self._reading_due.cancel()
            self._reading_due = None

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser cannot read."""
        del msg
        self._refuse("bad-request", "this is no HTTP/1.1 request")

    @property
    def _is_answering(self) -> bool:
        # Before the first request it is None, whatever uvicorn's annotation says.
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse("headers-too-large", TOO_LARGE)
            raise ValueError("stops the parser")

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self._end_slow)

    def _stop_header_timer(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _end_slow(self) -> None:
        if self._is_in_headers:
            self._refuse("request-timeout", f"the headers did not come within {HEADER_SECONDS:.0f} s")
        else:  # no request has begun, so there is nothing to answer
            self.transport.close()

    def _refuse(self, code: str, detail: str) -> None:
        """Answer with a problem, and close the connection."""
        if self.transport.is_closing():
            return
        if self._is_answering:
            self.transport.abort()  # a problem written now would be taken for a part of the current answer
            return
        self.transport.write(raw_problem(ApiProblem(code, detail)))
        self.transport.close()


def allow_connections(max_connections: int, max_calls: int = 0) -> None:
    """Raise this process's limit on open files.

    Args:
        max_connections: of callers, at a time.
        max_calls: to providers, at a time, each over a connection of its own.

    Raises:
        ConfigurationError: the operating system allows this process fewer.
    """
    wanted = max_connections + max_calls + RESERVED_CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigurationError(
            f"[api] max_connections = {max_connections} needs {wanted} open files, and this process may have {hard}: "
            "lower it, or raise the limit (ulimit -n)"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
