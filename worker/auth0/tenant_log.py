"""The tenant's log as a feed: entries that name users, and the checkpoint to ask from next.

Source: Auth0 Management API v2, "Search Log Events" (``from``/``take``, ``Link`` header); "Log Event Type Codes".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from worker.auth0.answers import Endpoint
from worker.auth0.models import moment
from worker.errors import MalformedAnswer

# Types after which a user's identities may be others than before: logins, sign-ups, deletions.
_TELLING = frozenset({"s", "ss", "sens", "sdu"})
# A write through the Management API; of these, links and deletions tell.
_WRITE = "sapi"
_USER_PATH = re.compile(r"/users/(?P<user>[^/?#]+)(?P<identities>/identities(?:/.*)?)?/?(?:[?#].*)?$")


@dataclass(frozen=True)
class LogEntry:
    """One entry of the tenant's log.

    Attributes:
        log_id: the checkpoint that stands for it.
        date: when it happened (UTC); None where unreadable.
        type: Auth0's code, e.g. ``s`` for a login.
        users: those whose identities may be others since; empty where the entry tells of nothing of the kind.
    """

    log_id: str
    date: datetime | None
    type: str
    users: tuple[str, ...]


@dataclass(frozen=True)
class LogPage:
    """One page of the tenant's log.

    Attributes:
        entries: those that can be read, in Auth0's order.
        after: the checkpoint to ask from next; the one that was asked from where the page is empty.
        size: how many entries it has, unreadable ones included.
    """

    entries: tuple[LogEntry, ...]
    after: str
    size: int


def read_log(answer: Any, response: httpx.Response, after: str, endpoint: Endpoint) -> LogPage:
    """Read one page.

    Raises:
        MalformedAnswer: it is no list, or nothing in it tells where to go on.
    """
    if not isinstance(answer, list):
        raise MalformedAnswer(f"{endpoint}: the answer has no list of log entries", status=200)
    entries = tuple(entry for raw in answer if (entry := read_entry(raw)))
    following = _next_checkpoint(response) or (entries[-1].log_id if entries else after)
    if answer and following == after:
        raise MalformedAnswer(f"{endpoint}: no entry says where to go on", status=200)
    return LogPage(entries, following if answer else after, len(answer))


def read_entry(raw: object) -> LogEntry | None:
    """Read one entry; None for what is none."""
    if not isinstance(raw, dict):
        return None
    log_id = raw.get("log_id") or raw.get("_id")
    if not isinstance(log_id, str) or not log_id:
        return None
    kind = raw.get("type")
    kind = kind if isinstance(kind, str) else ""
    return LogEntry(log_id, moment(raw.get("date")), kind, tuple(dict.fromkeys(_users(kind, raw))))


def _users(kind: str, raw: dict[str, Any]) -> list[str]:
    if kind in _TELLING:
        return _ids(raw.get("user_id"))
    return _written(raw) if kind == _WRITE else []


def _written(raw: dict[str, Any]) -> list[str]:
    """Those whom a write through the Management API linked, unlinked or deleted."""
    details = raw.get("details")
    request = details.get("request") if isinstance(details, dict) else None
    request = request if isinstance(request, dict) else {}
    path = _USER_PATH.search(str(request.get("path", "")))
    if path is None:
        # An entry that does not say what was written: the user it names is asked for.
        return _ids(raw.get("user_id")) if not request.get("path") else []
    deletes = str(request.get("method", "")).lower() == "delete"
    if not path["identities"] and not deletes:
        return []
    return [unquote(path["user"]), *_linked_user(request.get("body")), *_unlinked(path["identities"] or "")]


def _linked_user(body: object) -> list[str]:
    """The user whom a link makes part of another: their grants move."""
    given = body if isinstance(body, dict) else {}
    user_id, provider = given.get("user_id"), given.get("provider")
    if not isinstance(user_id, str | int) or isinstance(user_id, bool):
        return []
    return [str(user_id) if "|" in str(user_id) or not provider else f"{provider}|{user_id}"]


def _unlinked(path: str) -> list[str]:
    """``/identities/{provider}/{user_id}``: the identity is a user of its own again."""
    parts = [unquote(part) for part in path.split("/") if part]
    return [f"{parts[1]}|{parts[2]}"] if len(parts) == 3 else []


def _ids(value: object) -> list[str]:
    return [value] if isinstance(value, str) and value else []


def _next_checkpoint(response: httpx.Response) -> str | None:
    """The checkpoint in ``Link: <…?from=…>; rel="next"``; where the address leads otherwise does not matter."""
    url = response.links.get("next", {}).get("url", "")
    try:
        found = parse_qs(urlsplit(url).query).get("from")
    except ValueError:
        return None
    return found[0] if found and found[0] else None
