"""The Events API: server-sent events that name users who changed.

Source: WHATWG HTML, section 9.2 (server-sent events); Auth0, "Consume Events with the Events API".
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import structlog

from worker.auth0.errors import Auth0EventsGone, Auth0Unreachable, MalformedAnswer
from worker.auth0.field_types import parse_text, parse_time
from worker.auth0.http.responses import Endpoint
from worker.auth0.http.stream import MAX_LINE_BYTES, ByteStream, read_chunks

EVENT_TYPES = ("user.created", "user.updated", "user.deleted")

# Auth0's codes for an offset that cannot be resumed; after any other code the caller connects again.
_GONE = frozenset({"cursor_expired", "invalid_cursor"})

_LINE_END = re.compile(r"\r\n|\n|\r")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StreamedEvent:
    """One event: which user changed, without any tokens.

    Attributes:
        id: the offset to resume from; if the event has none, that of the event before.
        type: e.g. ``user.updated``; ``offset-only`` and ``error`` have a new offset and no user.
        user_id: the user that it is about; None if there is none, or it cannot be read.
        at: when it happened (UTC); None if unknown.
    """

    id: str
    type: str
    user_id: str | None
    at: datetime | None


def events_gone(endpoint: Endpoint, status: int | None, code: str | None) -> Auth0EventsGone:
    """Make the error of an offset that Auth0 cannot resume."""
    return Auth0EventsGone(
        f"{endpoint}: Auth0 cannot resume from this offset, most likely as it is too old",
        status=status,
        code=code,
    )


async def listen(
    connect: Callable[[], Awaitable[httpx.Response]], endpoint: Endpoint, after: str, silence: float
) -> AsyncGenerator[StreamedEvent | None, None]:
    """Yield events, and None for each keep-alive.

    It ends when the stream ends, breaks or is silent too long.

    Args:
        connect: opens the stream.
        endpoint: named in errors.
        after: the id of events until the stream names one.
        silence: the most seconds without a line.

    Raises:
        Auth0EventsGone: Auth0 cannot resume from here.
        MalformedAnswer: the answer is not an event stream.
    """
    async with aclosing(await connect()) as response, aclosing(read_chunks(response, endpoint)) as body:
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
            raise MalformedAnswer(f"{endpoint}: the answer is no event stream", status=200)
        event_lines = _EventLines(after)
        async with aclosing(_lines(body, endpoint)) as lines:
            while (line := await _next_line(lines, silence, endpoint)) is not None:
                if line.startswith(":"):
                    yield None
                elif line:
                    event_lines.add(line)
                elif event := event_lines.finish(endpoint):
                    yield event
                    if event.type == "error":
                        return


async def _next_line(lines: AsyncGenerator[str, None], silence: float, endpoint: Endpoint) -> str | None:
    """Return the next line (None at the end of the stream)."""
    try:
        async with asyncio.timeout(silence):
            return await anext(lines, None)
    except (Auth0Unreachable, TimeoutError) as error:
        log.info("event_stream.interrupted", domain=endpoint.host, error=type(error).__name__)
        return None


class _EventLines:
    """The lines of one event, as they arrive."""

    def __init__(self, last_id: str) -> None:
        self._id = last_id
        self._clear()

    def _clear(self) -> None:
        self._type, self._data = "", list[str]()

    def add(self, line: str) -> None:
        """Add a line with a field."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and value and value.isascii() and value.isprintable():
            self._id = value  # checked, as it is sent back to Auth0 in a header

    def finish(self, endpoint: Endpoint) -> StreamedEvent | None:
        """Return the finished event; None if it has no data.

        Raises:
            Auth0EventsGone: it says that Auth0 cannot resume from here.
        """
        kind, data = self._type, "\n".join(self._data)
        self._clear()
        if not data:
            return None
        try:
            content = _as_object(json.loads(data))
        except (ValueError, RecursionError):
            content = {}
        if not content:
            log.warning("event_stream.event_garbled", domain=endpoint.host, type=kind)
        if kind == "error":
            return self._error(_as_object(content.get("error")), endpoint)
        event = _as_object(content.get("event")) or content
        user = _as_object(_as_object(event.get("data")).get("object"))
        kind = parse_text(kind or event.get("type")) or ""
        return StreamedEvent(self._id, kind, parse_text(user.get("user_id")), parse_time(event.get("time")))

    def _error(self, error: dict[str, Any], endpoint: Endpoint) -> StreamedEvent:
        code = error.get("code")
        if code in _GONE:
            raise events_gone(endpoint, None, str(code))
        log.info("event_stream.ended", domain=endpoint.host, code=parse_text(code))
        # Resuming from this offset skips the event that could not be delivered.
        self.add(f"id: {parse_text(error.get('offset')) or ''}")
        return StreamedEvent(self._id, "error", None, None)


async def _lines(body: ByteStream, endpoint: Endpoint) -> AsyncGenerator[str, None]:
    """Yield lines without their ends; drop an unfinished last one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    held, ended_with_cr = "", False
    async for piece in body:
        decoded = decoder.decode(piece)
        fresh = decoded[1:] if ended_with_cr and decoded.startswith("\n") else decoded
        if decoded:
            ended_with_cr = decoded.endswith("\r")
        *complete, held = _LINE_END.split(held + fresh)
        for line in complete:
            yield line
        if len(held) > MAX_LINE_BYTES:
            raise MalformedAnswer(f"{endpoint}: a line has no end", status=200)


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
