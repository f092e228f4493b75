"""The ASGI layer that logs calls and carries out faults."""

import asyncio
import json
import socket
import struct
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emulators.auth0.errors import ApiError
from emulators.call_log import CallLog, Entry
from emulators.clock import Clock
from emulators.faults import Fault, Faults

Transports = MutableMapping[Any, asyncio.Transport]  # open connections by the client's address
LOOPBACK = ("127.0.0.1", "::1")


class Gate:
    """Wraps the application; `/control` passes untouched, from loopback only."""

    def __init__(
        self, app: ASGIApp, clock: Clock, calls: CallLog, faults: Faults, transports: Transports
    ) -> None:
        self._app = app
        self._clock = clock
        self._calls = calls
        self._faults = faults
        self._transports = transports
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let all requests that hang be answered now."""
        self._released.set()
        self._released = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith("/control"):
            client = scope.get("client")
            local = client is not None and client[0] in LOOPBACK
            await (self._app if local else JSONResponse({"error": "from loopback only"}, 403))(
                scope, receive, send
            )
            return
        entry = scope["entry"] = self._calls.open(self._clock.now(), scope["method"], path)
        entry["note"] = dict(scope["headers"]).get(b"x-note", b"").decode()  # what a test says of its request
        fault = self._faults.take(path)
        try:
            if fault is None:
                await self._app(scope, receive, _noting(send, entry))
            else:
                entry["fault"] = fault.name
                await self._break(fault, scope, receive, _noting(send, entry))
        finally:
            self._calls.close(entry)

    async def _break(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.name == "error":
            code, _, description = fault.argument.partition(":")
            scope["planted_error"] = (code, description or f"The request failed: {code}.")
        if fault.name != "error" and not fault.carried_out:
            answer = _Answer()
        else:
            answer = await _collect(self._app, scope, receive)
        match fault.name:
            case "reset_before" | "reset_after":
                await self._reset(scope, receive)
                return
            case "hang":
                if await self._hang(receive):
                    return
                if fault.argument == "reset":
                    await self._reset(scope, receive)
                    return
            case "cut":
                await send(
                    {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
                )
                half = answer.body[: len(answer.body) // 2]
                await send({"type": "http.response.body", "body": half, "more_body": True})
                await asyncio.sleep(0)  # the half leaves with this turn of the loop
                await self._reset(scope, receive)
                return
            case "delay":
                if await _leaves_within(float(fault.argument), receive):
                    return
            case "slow":
                await self._clock.sleep_until(scope["entry"]["time"] + float(fault.argument))
        await _spoiled(fault, answer, scope["path"])(scope, receive, send)

    async def _reset(self, scope: Scope, receive: Receive) -> None:
        transport = self._transports[scope["client"]]
        # Zero linger: the client sees a reset, not a tidy end.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()
        await _gone(receive)

    async def _hang(self, receive: Receive) -> bool:
        """Wait for release (False) or the client's leaving (True)."""
        left = asyncio.ensure_future(_gone(receive))
        released = asyncio.ensure_future(self._released.wait())
        done, waiting = await asyncio.wait((left, released), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return left in done


class _Answer:
    """An answer that was caught before it left."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def response(self, body: bytes | None = None) -> Response:
        response = Response(self.body if body is None else body, self.status)
        kept = [(name, value) for name, value in self.headers if name != b"content-length"]
        response.raw_headers = [*kept, (b"content-length", str(len(response.body)).encode())]
        return response


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> _Answer:
    answer = _Answer()

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, keep)
    return answer


def _spoiled(fault: Fault, answer: _Answer, path: str) -> Response:
    match fault.name:
        case "status":
            return _status(fault, path)
        case "html200":
            return HTMLResponse("<!doctype html><title>Sign in to the network</title><p>Please sign in.</p>")
        case "empty200":
            return Response(b"", 200, media_type="application/json")
        case "malformed_json":
            return answer.response(answer.body[: len(answer.body) // 2])
        case "override":
            return answer.response(_merged(answer.body, json.loads(fault.argument)))
        case "error":
            response = answer.response(_merged(answer.body, fault.extra) if fault.extra else None)
            if fault.retry_after is not None:
                response.headers["retry-after"] = str(fault.retry_after)
            return response
        case _:
            return answer.response()


def _merged(body: bytes, fields: dict[str, Any]) -> bytes:
    """Merge fields into a JSON object or a form."""
    if body.startswith(b"{"):
        return json.dumps({**json.loads(body), **fields}).encode()
    return urlencode({**dict(parse_qsl(body.decode())), **fields}).encode()


def _status(fault: Fault, path: str) -> Response:
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    phrase = HTTPStatus(fault.status).phrase
    if path == "/oauth/token" and fault.status == 429:
        headers["auth0-client-quota-limit"] = "b=per_hour;q=1000;r=0;t=3600"
        return JSONResponse({"error": "too_many_requests", "error_description": phrase}, 429, headers)
    if path.startswith("/api/"):
        code = "too_many_requests" if fault.status == 429 else None
        message = "Global limit has been reached" if fault.status == 429 else phrase
        return ApiError(fault.status, message, code).response(headers)
    return PlainTextResponse(phrase, fault.status, headers)


def _noting(send: Send, entry: Entry) -> Send:
    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry["status"] = message["status"]
        await send(message)

    return noted


async def _leaves_within(seconds: float, receive: Receive) -> bool:
    """Wait; True where the client left before the time was over."""
    try:
        await asyncio.wait_for(_gone(receive), seconds)
    except TimeoutError:
        return False
    return True


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
