"""The tenant's events as they come: server-sent events that name users.

Source: Auth0, "Events API" (``GET /api/v2/events``); WHATWG HTML, "Server-sent events" (parsing).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.auth0.models import moment

TYPES = ("user.created", "user.updated", "user.deleted")
# No event is longer; what is does not come from Auth0.
MAX_EVENT = 1 << 20


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        id: where to go on from.
        type: e.g. ``user.updated``; ``offset-only`` tells that nothing happened until here.
        user_id: whom it is about, None where it does not say.
        at: when it happened (UTC), None where unreadable.
    """

    id: str
    type: str
    user_id: str | None
    at: datetime | None


async def read_events(lines: AsyncIterator[str], after: str | None) -> AsyncIterator[Event]:
    """Yield each whole event of a stream; one that is cut off in the middle is not.

    Args:
        lines: of the stream, without their ends.
        after: the id that holds until the stream names another.
    """
    data: list[str] = []
    last_id, kind = after or "", ""
    async for line in lines:
        if not line:
            if data and (event := _event("\n".join(data), last_id, kind)):
                yield event
            data, kind = [], ""
            continue
        name, _, value = line.removeprefix("\ufeff").partition(":")
        value = value.removeprefix(" ")
        if name == "data" and sum(map(len, data)) < MAX_EVENT:
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "event":
            kind = value


def _event(data: str, stream_id: str, kind: str) -> Event | None:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    # A CloudEvent in an envelope with its offset; `offset-only` and `error` come without one.
    cloud = message["event"] if isinstance(message.get("event"), dict) else message
    event_id = stream_id or _text(message.get("offset")) or _text(cloud.get("id"))
    if not event_id:
        return None
    return Event(
        id=event_id,
        type=kind or _text(cloud.get("type")),
        user_id=_user_id(cloud.get("data")),
        at=moment(cloud.get("time")),
    )


def _user_id(data: Any) -> str | None:
    inner = data.get("object") if isinstance(data, dict) else None
    holder = inner if isinstance(inner, dict) else data if isinstance(data, dict) else {}
    return _text(holder.get("user_id")) or None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
