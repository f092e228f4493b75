"""Parses what Auth0's log streams and event streams post.

Source: Auth0, "Create Custom Log Streams Using Webhooks" (JSON lines, array or object), "Event Streams" (CloudEvents
1.0). Only the users and connections that they name are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from worker.auth0.event_stream import EVENT_TYPES
from worker.auth0.field_types import parse_text
from worker.auth0.models import UnreadableEntry
from worker.auth0.tenant_log import LogEntry, read_log_entry

# More than Auth0 ever posts at once.
MAX_EVENTS = 2_000
MAX_USER_ID_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class PushedEvents:
    """The contents of a post.

    Attributes:
        user_ids: of users who may have changed, each once.
        names_connections: whether connections have changed.
        passed_over: the number of events that change no token, or are of unknown kinds.
        malformed: positions, from 1, of events that cannot be read.
        number: the number of events.
    """

    user_ids: tuple[str, ...]
    names_connections: bool
    passed_over: int
    malformed: tuple[int, ...]
    number: int


def read_pushed_events(body: bytes, is_relevant: Callable[[LogEntry], bool]) -> PushedEvents:
    """Read a post of any format.

    Events that cannot be read are left out, and counted.

    Args:
        is_relevant: whether an entry of the log may change tokens.

    Raises:
        ValueError: there are too many events.
    """
    events = _split(body)
    if len(events) > MAX_EVENTS:
        raise ValueError(f"there are more than {MAX_EVENTS} events")
    user_ids: dict[str, None] = {}
    passed_over, malformed, connections = 0, list[int](), False
    for position, event in enumerate(events, start=1):
        try:
            named = list(_users_of(event, position, is_relevant))
        except UnreadableEntry:
            malformed.append(position)
            continue
        user_ids |= dict.fromkeys(named)
        is_connection = _names_connection(event)
        connections |= is_connection
        passed_over += not (named or is_connection)
    return PushedEvents(tuple(user_ids), connections, passed_over, tuple(malformed), len(events))


def _split(body: bytes) -> Sequence[object]:
    """Return the events of an array, an object or lines."""
    whole = _parse(body)
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict):
        logs = whole.get("logs")
        return logs if isinstance(logs, list) else [whole]
    # Split at most so often that too many events are noticed without parsing them.
    lines = [line for line in body.split(b"\n", MAX_EVENTS + 1) if line.strip()]
    return [_parse(line) for line in lines] if len(lines) <= MAX_EVENTS else lines


def _parse(text: bytes) -> object:
    """Parse JSON; None if it is not."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None


def _users_of(event: object, position: int, is_relevant: Callable[[LogEntry], bool]) -> Iterator[str]:
    """Yield the users whom an event names.

    Raises:
        UnreadableEntry: it is neither an entry of the log nor a CloudEvent, or an id is malformed.
    """
    if not isinstance(event, dict):
        raise UnreadableEntry(f"event {position}")
    if (cloud_event := _cloud_event(event)) is not None:
        if cloud_event.get("type") in EVENT_TYPES:
            user = _as_object(_as_object(cloud_event.get("data")).get("object"))
            yield _checked(parse_text(user.get("user_id")), position)
        return
    entry = read_log_entry({**event, **_as_object(event.get("data"))}, position)
    if is_relevant(entry):
        for user_id in entry.users:
            yield _checked(user_id, position)


def _cloud_event(event: object) -> dict[str, Any] | None:
    """Return a CloudEvent, also one in an envelope."""
    outer = _as_object(event)
    found = _as_object(outer.get("event")) or outer
    return found if "specversion" in found else None


def _names_connection(event: object) -> bool:
    kind = (_cloud_event(event) or {}).get("type")
    return isinstance(kind, str) and kind.startswith("connection.")


def _checked(user_id: str | None, position: int) -> str:
    if not user_id or len(user_id) > MAX_USER_ID_CHARACTERS:
        raise UnreadableEntry(f"event {position}")
    return user_id


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
