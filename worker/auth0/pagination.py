"""Pages of users, and of connections by checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import structlog

from worker.auth0.errors import Auth0Error, MalformedAnswer, PagingWindowExceeded
from worker.auth0.http.responses import Endpoint
from worker.auth0.models import Auth0Connection, UnreadableEntry, read_connection

PER_PAGE = 100  # Auth0's maximum

log = structlog.get_logger(__name__)


def page_parameters(fields: str) -> dict[str, str]:
    """Return the parameters for one page and its fields."""
    return {"per_page": str(PER_PAGE), "fields": fields, "include_fields": "true"}


def explain_paging_error(error: Auth0Error, endpoint: Endpoint, page: int) -> Auth0Error:
    """Return ``PagingWindowExceeded`` for Auth0's error of that kind.

    Any other error is returned as it is.
    """
    if error.code != "invalid_paging":
        return error
    return PagingWindowExceeded(
        f"{endpoint}: Auth0 shows {page * PER_PAGE} users of a query and pages no further; narrow the query",
        status=400,
        code="invalid_paging",
    )


async def list_connections(
    fetch: Callable[[Mapping[str, str]], Awaitable[Any]], endpoint: Endpoint
) -> AsyncGenerator[Auth0Connection, None]:
    """Yield connections until an answer names no next checkpoint."""
    checkpoint: dict[str, str] = {"take": str(PER_PAGE)}
    position = 0
    while True:
        answer = await fetch(checkpoint)
        # Where Auth0 ignores checkpoints, e.g. for a filter by name, it answers with a plain list.
        entries = answer.get("connections") if isinstance(answer, dict) else answer
        if not isinstance(entries, list):
            raise MalformedAnswer(f"{endpoint}: the answer has no list of connections", status=200)
        for entry in entries:
            position += 1
            try:
                connection = read_connection(entry, position)
            except UnreadableEntry as error:
                log.warning("connection.skipped", domain=endpoint.host, error=str(error))
                continue
            yield connection
        following = answer.get("next") if isinstance(answer, dict) else None
        if not following:
            return
        if not isinstance(following, str) or following == checkpoint.get("from"):
            raise MalformedAnswer(f"{endpoint}: the next checkpoint leads nowhere", status=200)
        checkpoint["from"] = following


def read_raw_users(answer: Any, endpoint: Endpoint) -> tuple[list[Any], Any]:
    """Return a page's raw users, and its raw total.

    Raises:
        MalformedAnswer: there is no list of users.
    """
    if isinstance(answer, list):  # Auth0 ignored include_totals
        return answer, None
    if isinstance(answer, dict) and isinstance(answer.get("users"), list):
        return answer["users"], answer.get("total")
    raise MalformedAnswer(f"{endpoint}: the answer has no list of users", status=200)
