"""The outermost middleware: ids, limits, metrics, last error handler."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from token_vault.errors import VaultError
from worker import traces
from worker.api import problems
from worker.api.http_protocol import OVERLOADED
from worker.api.metrics import Metrics, route_of
from worker.api.proxy.response_body import AnswerCut

# Request ids that callers may choose; they go into the log and the audit.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# W3C Trace Context, version 00.
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# Seconds after which a refused caller may ask again.
BUSY_RETRY_SECONDS = 1
# Served even at the limit of concurrent requests: otherwise a busy process would look dead.
_ALWAYS = frozenset({"/healthz", "/readyz", "/metrics"})


class Gate:
    """The outermost middleware.

    Args:
        app: the routes.
        metrics: counts requests.
        max_concurrent: requests at a time. Further ones are refused without waiting.

    Attributes:
        failure: why the app did not start.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_concurrent: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._running = 0
        metrics.in_flight.set_function(lambda: self._running)
        self.failure: VaultError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, partial(self._tell, send))
            return
        request_id, trace = _ids(scope)
        scope["request_id"] = request_id
        bind_contextvars(request_id=request_id)  # for this request's asyncio task only
        answer = _Answer(send, request_id, trace, is_last=OVERLOADED in scope)
        began = time.perf_counter()
        self._running += 1
        try:
            if (excess := self._excess(scope)) is not None:
                problem = problems.unavailable(f"too many {excess} at a time", BUSY_RETRY_SECONDS)
                await problems.problem_response(problem, request_id)(scope, receive, answer)
            elif scope["path"] in _ALWAYS:
                await self._serve(scope, receive, answer)
            else:
                await self._serve_traced(scope, receive, answer, trace)
        finally:
            self._running -= 1
            self._metrics.observe(scope, answer.status, time.perf_counter() - began)

    async def _tell(self, send: Send, message: Message) -> None:
        """Keep why the app does not start.

        Starlette sends a traceback for the log, while it handles that failure.
        """
        failure = sys.exception()
        if message["type"] == "lifespan.startup.failed" and isinstance(failure, VaultError):
            self.failure, message = failure, {"type": message["type"], "message": ""}
        await send(message)

    async def _serve_traced(
        self, scope: Scope, receive: Receive, answer: _Answer, trace: bytes | None
    ) -> None:
        method, traceparent = scope["method"], trace.decode() if trace else None
        with traces.span(method, "server", traceparent=traceparent, method=method) as span:
            try:
                await self._serve(scope, receive, answer)
            finally:
                route = route_of(scope)
                span.rename(f"{method} {route}")
                span.set(route=route, request_id=scope["request_id"])
                if answer.status:
                    span.set_status(answer.status, error_from=500)

    def _excess(self, scope: Scope) -> str | None:
        """Name what exceeds its limit, if anything."""
        if scope["path"] in _ALWAYS:
            return None
        if OVERLOADED in scope:
            return "connections"
        return "requests" if self._running > self._max_concurrent else None

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            # The server stops, and does not wait any longer.
            if not answer.status:
                problem = problems.unavailable("the server is stopping", BUSY_RETRY_SECONDS)
                await problems.problem_response(problem, scope["request_id"])(scope, receive, answer)
            raise
        except AnswerCut:
            pass  # the provider's fault, and already logged; the server closes the connection
        except Exception as error:
            # Either a problem was sent, or a part of an answer: then the server closes the connection.
            problems.log_unforeseen(error, scope["request_id"])


class _Answer:
    """Sends a response, with the request's ids as headers."""

    def __init__(self, send: Send, request_id: str, trace: bytes | None, *, is_last: bool) -> None:
        self._send = send
        self._headers = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
        if trace is not None:
            self._headers.append((b"traceparent", trace))
        if is_last:
            self._headers.append((b"connection", b"close"))
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)


def _ids(scope: Scope) -> tuple[str, bytes | None]:
    """Return the request's id, and its ``traceparent`` if valid.

    If the caller sends no id, the trace's id is used, or a new one.
    """
    given = dict(scope["headers"])
    trace: bytes | None = given.get(b"traceparent")
    match = _TRACEPARENT.fullmatch(trace) if trace else None
    if (request_id := given.get(b"x-request-id")) and _REQUEST_ID.fullmatch(request_id):
        return request_id.decode(), trace if match else None
    return (match[1].decode() if match else _new_id()), trace if match else None


def _new_id() -> str:
    """Make a request's id.

    It is no secret, so it is not made from the operating system's random bytes, which would cost a switch of threads.
    """
    return f"{random.getrandbits(128):032x}"
