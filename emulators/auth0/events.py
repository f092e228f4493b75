"""The event stream, `GET /api/v2/events`.

Server-sent events, which can be resumed by offset.
Shape: https://auth0.com/docs/customize/events/consume-events-with-events-api and the OpenAPI description's
EventStreamCloudEvent* schemas: each message's data is `{type, offset, event}` with a CloudEvent inside.
"""

import asyncio
import base64
import binascii
import json
import random
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from emulators.auth0.errors import ApiError, invalid_query
from emulators.auth0.settings import Settings
from emulators.auth0.streams import Streams
from emulators.clock import Clock, iso, milliseconds

Json = dict[str, Any]
TYPES = ("user.created", "user.updated", "user.deleted")
TOKENS = ("access_token", "refresh_token", "access_token_secret", "expires_in")
RETRY = 1000  # milliseconds that a client is told to wait before it connects again


class Events:
    """The kept events, in the order of delivery."""

    def __init__(self, clock: Clock, settings: Settings, streams: Streams) -> None:
        self._clock = clock
        self._settings = settings
        self._streams = streams
        self._news = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """Forget every event and close every stream."""
        self._first = 1  # number of the oldest event kept
        self._kept: list[tuple[float, Json]] = []  # when it happened, the CloudEvent
        self._delivered = 0  # number of the newest event that anybody has seen
        self._choice = random.Random(1)
        self._era = object()
        self._tell()

    def close_streams(self) -> None:
        """Close every open stream, as a change of servers does."""
        self._era = object()
        self._tell()

    def happened(self, kind: str, user: Json) -> None:
        """Tell of a user, without its tokens."""
        now = self._clock.now()
        event = {
            "specversion": "1.0",
            "type": kind,
            "source": "urn:auth0:emulated",
            "id": f"evt_{uuid.uuid4().hex[:16]}",
            "time": iso(now),
            "data": {"object": _shown(user, deleted_at=iso(now) if kind == "user.deleted" else None)},
            "a0tenant": "emulated",
            "a0stream": "est_emulated",
        }
        self._expire()
        place = len(self._kept)
        early = self._choice.random() < self._settings.event_disorder
        if early and self._kept and self._first + place - 1 > self._delivered:
            place -= 1
        self._kept.insert(place, (now, event))
        if self._choice.random() < self._settings.event_duplicates:
            self._kept.append((now, event))
        self._streams.happened(event)
        self._tell()

    def answer(self, request: Request, caller: Any) -> StreamingResponse:
        """GET /api/v2/events."""
        params = request.query_params
        wanted = set(params.getlist("event_type"))
        if unknown := wanted - set(TYPES):
            raise invalid_query(f"'event_type' has no {', '.join(sorted(unknown))}.")
        following = self._start(request.headers.get("last-event-id") or params.get("from"), params)
        ends = min(self._clock.now() + self._settings.event_recycle, caller.expires_at)
        body = self._stream(following, wanted or set(TYPES), ends)
        return StreamingResponse(body, media_type="text/event-stream", headers={"cache-control": "no-store"})

    def _start(self, mark: str | None, params: Any) -> int:
        self._expire()
        if mark is not None:
            following = _number(mark) + 1
            if following < self._first:
                raise ApiError(410, "The requested offset is no longer available.", "offset_expired")
            return min(following, self._end)
        if since := params.get("from_timestamp"):
            try:
                at = milliseconds(since) / 1000
            except ValueError:
                raise invalid_query("'from_timestamp' is not a date.") from None
            if at < self._clock.now() - self._settings.event_retention:
                raise ApiError(410, "The requested offset is no longer available.", "offset_expired")
            return self._first + bisect_left(self._kept, at, key=lambda each: each[0])
        return self._end

    async def _stream(self, following: int, wanted: set[str], ends: float) -> AsyncIterator[str]:
        era, told = self._era, following - 1
        yield f":connected\n\nretry: {RETRY}\n\n"
        while era is self._era and self._clock.now() < ends:
            if following < self._first:  # the reader was slower than the retention
                error = {"code": "offset_expired", "message": "The stream moved on.", "offset": _mark(told)}
                yield _message("error", {"type": "error", "error": error}, None)
                return
            while following < self._end:
                event = self._kept[following - self._first][1]
                if event["type"] in wanted:
                    self._delivered = max(self._delivered, following)
                    data = {"type": event["type"], "offset": _mark(following), "event": event}
                    yield _message(event["type"], data, _mark(following))
                    told = following
                following += 1
            if not await self._wait(min(ends, self._clock.now() + self._settings.event_keepalive)):
                continue
            if following - 1 > told:  # others' events went by
                told = following - 1
                yield _message("offset-only", {"type": "offset-only", "offset": _mark(told)}, _mark(told))
            else:
                yield ": keep-alive\n\n"

    async def _wait(self, until: float) -> bool:
        """Wait for news (False) or until a moment (True)."""
        news = asyncio.ensure_future(self._news.wait())
        late = asyncio.ensure_future(self._clock.sleep_until(until))
        try:
            await asyncio.wait((news, late), return_when=asyncio.FIRST_COMPLETED)
            return not news.done()
        finally:
            news.cancel()
            late.cancel()

    @property
    def _end(self) -> int:
        return self._first + len(self._kept)

    def _expire(self) -> None:
        old = self._clock.now() - self._settings.event_retention
        gone = bisect_right(self._kept, old, key=lambda each: each[0])
        self._first += gone
        del self._kept[:gone]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _shown(user: Json, deleted_at: str | None) -> Json:
    identities = [
        {name: value for name, value in identity.items() if name not in TOKENS}
        for identity in user.get("identities") or ()
        if isinstance(identity, dict)
    ]
    shown = {**user, "identities": identities}
    return shown if deleted_at is None else {**shown, "deleted_at": deleted_at}


def _message(kind: str, data: Json, mark: str | None) -> str:
    head = "" if mark is None else f"id: {mark}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"


def _mark(number: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{number}".encode()).decode()


def _number(mark: str) -> int:
    try:
        word, _, number = base64.urlsafe_b64decode(mark).decode().partition(":")
        if word == "offset":
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise invalid_query("'from' is not an offset.")
