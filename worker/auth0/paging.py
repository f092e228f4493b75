"""Pages of users by a time, and connections put together by checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from worker.auth0.answers import Endpoint
from worker.auth0.models import Connection, Unreadable, UserPage, read_connection, read_page
from worker.errors import MalformedAnswer

PER_PAGE = 100  # Auth0's maximum
USER_FIELDS = "user_id,identities,created_at,last_login,updated_at"

Field = Literal["created_at", "updated_at"]

_log = structlog.get_logger(__name__)


def users_query(
    by: Field, since: datetime | None, until: datetime | None, page: int, connection: str | None
) -> dict[str, str]:
    """Return the parameters of one page of users in the order of a time.

    Source: Auth0, "User Search Query Syntax": ranges in brackets include their ends, to the millisecond.
    """
    query = {
        "page": str(page),
        "per_page": str(PER_PAGE),
        "include_totals": "true",
        "sort": f"{by}:1",
        "fields": USER_FIELDS,
        "include_fields": "true",
    }
    terms = [f"{by}:[{_bound(since)} TO {_bound(until)}]"] if since or until else []
    if connection is not None:
        terms.append(_term("identities.connection", connection))
    if terms:
        query |= {"q": " AND ".join(terms), "search_engine": "v3"}
    return query


def identity_query(connection: str, provider_user_id: str) -> dict[str, str]:
    """Return the parameters that find the users who have an identity."""
    terms = (_term("identities.connection", connection), _term("identities.user_id", provider_user_id))
    return {"q": " AND ".join(terms), "search_engine": "v3", "per_page": "10", "fields": USER_FIELDS}


def _bound(moment: datetime | None) -> str:
    if moment is None:
        return "*"
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _term(field: str, value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{field}:"{quoted}"'


def users_in(answer: Any, endpoint: Endpoint) -> UserPage:
    """Read a page of users, with or without its total.

    Raises:
        MalformedAnswer: it holds no list of users.
    """
    if isinstance(answer, list):  # Auth0 left include_totals aside
        return read_page(answer, None)
    if isinstance(answer, dict) and isinstance(answer.get("users"), list):
        return read_page(answer["users"], answer.get("total"))
    raise MalformedAnswer(f"{endpoint}: the answer has no list of users", status=200)


async def connections(
    fetch: Callable[[Mapping[str, str]], Awaitable[Any]], endpoint: Endpoint
) -> AsyncGenerator[Connection, None]:
    """Yield connection after connection, until an answer names no next checkpoint."""
    checkpoint: dict[str, str] = {"take": str(PER_PAGE)}
    position = 0
    while True:
        answer = await fetch(checkpoint)
        # A bare list is what Auth0 answers where it leaves checkpoints aside, e.g. for a filter by name.
        entries = answer.get("connections") if isinstance(answer, dict) else answer
        if not isinstance(entries, list):
            raise MalformedAnswer(f"{endpoint}: the answer has no list of connections", status=200)
        for entry in entries:
            position += 1
            try:
                connection = read_connection(entry, position)
            except Unreadable as error:
                _log.warning("auth0.connection_malformed", domain=endpoint.host, malformed=str(error))
                continue
            yield connection
        following = answer.get("next") if isinstance(answer, dict) else None
        if not following:
            return
        if not isinstance(following, str) or following == checkpoint.get("from"):
            raise MalformedAnswer(f"{endpoint}: the next checkpoint leads nowhere", status=200)
        checkpoint["from"] = following
