"""The tenant log, page by page from checkpoint to checkpoint.

Source: Auth0, "Retrieve Logs Using the Management API" (checkpoints, ``Link``); "Log Event Type Codes".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from worker.auth0.errors import Auth0LogGone, MalformedAnswer
from worker.auth0.field_types import parse_text, parse_time
from worker.auth0.http.responses import Endpoint, read_error_code
from worker.auth0.models import UnreadableEntry

GONE_STATUSES = frozenset({400, 404, 410})

# Logins, sign-ups, native logins.
_LOGINS = frozenset({"s", "ss", "sens"})
_DELETION = "sdu"
_USER_PATH = re.compile(r"/api/v2/users/([^/?]+)(?:/identities(?:/([^/?]+)/([^/?]+))?)?/?(?:\?.*)?")


@dataclass(frozen=True)
class LogEntry:
    """One entry of the tenant log.

    Attributes:
        log_id: its id.
        date: when it happened (UTC), which need not be the order of the log; None if unreadable.
        type: the event's code, e.g. ``s`` for a login; empty if unreadable.
        users: ids of the users that it names, each once; for a management write (``sapi``) also those in the request's
            path and, for a link, in its body.
        connection: the connection's name; None if absent.
        may_change_identities: whether it may have changed the identities of these users: a login, a sign-up, a deletion,
            or a write that links or deletes. Most writes only change a profile.
        strategy: of the connection that the entry is about, e.g. ``auth0`` for a database; None if absent.
    """

    log_id: str
    date: datetime | None
    type: str
    users: tuple[str, ...]
    connection: str | None
    may_change_identities: bool = False
    strategy: str | None = None

    @property
    def is_login(self) -> bool:
        """Whether it is a login or a sign-up."""
        return self.type in _LOGINS


@dataclass(frozen=True)
class LogPage:
    """Some entries in the log's own order.

    Attributes:
        entries: the readable ones.
        after: the checkpoint of the next page.
        malformed: which entries cannot be read, and why.
    """

    entries: tuple[LogEntry, ...]
    after: str
    malformed: tuple[str, ...] = ()


def log_gone(endpoint: Endpoint, response: httpx.Response) -> Auth0LogGone:
    """Make the error of a checkpoint that Auth0 refuses."""
    return Auth0LogGone(
        f"{endpoint}: the log cannot be read on from here, most likely as it is no longer kept so far back",
        status=response.status_code,
        code=read_error_code(response),
    )


def read_log_page(
    answer: Any, headers: httpx.Headers, endpoint: Endpoint, asked_after: str, take: int
) -> LogPage:
    """Read a page; unreadable entries are named in it.

    Raises:
        MalformedAnswer: the answer is not a list, or a full page has no next checkpoint.
    """
    raws = _entries_in(answer, endpoint)
    entries, malformed = [], []
    for position, raw in enumerate(raws):
        try:
            entries.append(read_log_entry(raw, position))
        except UnreadableEntry as error:
            malformed.append(str(error))
    after = asked_after
    if raws:  # after an empty page, the same checkpoint is used again
        linked = _linked_checkpoint(headers)
        last = next(filter(None, (_log_id(raw) for raw in reversed(raws))), None)
        # A link back to these entries would cause an endless loop.
        after = (linked if linked != asked_after else None) or last or asked_after
        if after == asked_after and len(raws) >= take:
            raise MalformedAnswer(f"{endpoint}: the page has nothing to go on from", status=200)
    return LogPage(tuple(entries), after, tuple(malformed))


def read_only_entry(answer: Any, endpoint: Endpoint) -> LogEntry | None:
    """Read a page's only entry; None if there is none.

    Raises:
        MalformedAnswer: the answer is not a list, or its entry cannot be read.
    """
    raws = _entries_in(answer, endpoint)
    try:
        return read_log_entry(raws[0], 0) if raws else None
    except UnreadableEntry as error:
        raise MalformedAnswer(f"{endpoint}: {error}", status=200) from None


def read_log_entry(raw: object, position: int) -> LogEntry:
    """Read one entry.

    Raises:
        UnreadableEntry: it is not an object, or has no id.
    """
    log_id = _log_id(raw)
    if log_id is None or not isinstance(raw, dict):
        raise UnreadableEntry(f"log entry at position {position}: has no log_id")
    kind = parse_text(raw.get("type")) or ""
    named = [raw.get("user_id"), *(_written_users(raw.get("details")) if kind == "sapi" else ())]
    users = dict.fromkeys(user for user in map(parse_text, named) if user)
    return LogEntry(
        log_id,
        parse_time(raw.get("date")),
        kind,
        tuple(users),
        parse_text(raw.get("connection")),
        _may_change_identities(kind, raw),
        parse_text(raw.get("strategy")),
    )


def _may_change_identities(kind: str, raw: dict[str, Any]) -> bool:
    if kind != "sapi":
        return kind in _LOGINS or kind == _DELETION
    request = _as_object(_as_object(raw.get("details")).get("request"))
    path, method = request.get("path"), request.get("method")
    if not isinstance(path, str) or not isinstance(method, str):
        return True  # it may have been a link or a deletion
    found = _USER_PATH.fullmatch(path)
    return found is not None and ("/identities" in found[0] or method.lower() == "delete")


def _written_users(details: object) -> Iterator[object]:
    """Yield the users that a management write names."""
    request = _as_object(_as_object(details).get("request"))
    path = request.get("path")
    found = _USER_PATH.fullmatch(path) if isinstance(path, str) else None
    if not found:
        return
    user, provider, identity = (unquote(part) if part else None for part in found.groups())
    yield user
    if provider and identity:  # an unlinked identity becomes a separate user again
        yield f"{provider}|{identity}"
    body = _as_object(request.get("body"))
    secondary = body.get("user_id")
    if "/identities" in found[0] and parse_text(body.get("provider")) and secondary is not None:
        # Auth0 accepts the secondary user's id with the provider as prefix or without.
        prefix = f"{body['provider']}|"
        yield str(secondary) if str(secondary).startswith(prefix) else f"{prefix}{secondary}"


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _log_id(raw: object) -> str | None:
    entry = _as_object(raw)
    return parse_text(entry.get("log_id")) or parse_text(entry.get("_id"))


def _entries_in(answer: Any, endpoint: Endpoint) -> Sequence[object]:
    entries = answer.get("logs") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        raise MalformedAnswer(f"{endpoint}: the answer has no list of log entries", status=200)
    return entries


def _linked_checkpoint(headers: httpx.Headers) -> str | None:
    """Return the checkpoint in the link to the next page.

    Only the checkpoint is used, never the link's host.
    """
    for link in httpx.Response(200, headers={"Link": headers.get("link", "")}).links.values():
        if "next" in link.get("rel", "").lower().split():
            try:
                checkpoints = parse_qs(urlsplit(link["url"]).query).get("from", [])
            except ValueError:
                continue
            if len(checkpoints) == 1:
                return parse_text(checkpoints[0])
    return None
