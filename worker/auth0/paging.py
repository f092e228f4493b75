"""Pages put together: users by number with a look ahead, connections by checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import structlog

from worker.auth0.answers import Endpoint
from worker.auth0.models import Connection, Unreadable, UserPage, read_connection, read_page
from worker.errors import Auth0Error, MalformedAnswer, PagingWindowExceeded

PER_PAGE = 100  # Auth0's maximum

_log = structlog.get_logger(__name__)


def shape(fields: str) -> dict[str, str]:
    """Return the parameters that say what one page holds."""
    return {"per_page": str(PER_PAGE), "fields": fields, "include_fields": "true"}


def window_exceeded(error: Auth0Error, endpoint: Endpoint, page: int) -> Auth0Error:
    """Return the error of a page past those that Auth0 shows, else the error as it is."""
    return _exceeded(endpoint, page * PER_PAGE, None) if error.code == "invalid_paging" else error


def users_query(page: int, fields: str, connection: str | None) -> dict[str, str]:
    """Return the parameters of one page; ``created_at`` never changes, so nobody moves between pages."""
    query = {
        "page": str(page),
        "per_page": str(PER_PAGE),
        "include_totals": "true",
        "sort": "created_at:1",
        "fields": fields,
        "include_fields": "true",
    }
    if connection is not None:
        quoted = connection.replace("\\", "\\\\").replace('"', '\\"')
        query |= {"q": f'identities.connection:"{quoted}"', "search_engine": "v3"}
    return query


async def user_pages(
    fetch: Callable[[int], Awaitable[Any]], endpoint: Endpoint, number: int
) -> AsyncGenerator[UserPage, None]:
    """Yield page after page while the next one is fetched, until Auth0 has no more."""
    seen, total = number * PER_PAGE, None
    ahead = asyncio.ensure_future(fetch(number))
    try:
        while True:
            try:
                raw_users, raw_total = users_in(await ahead, endpoint)
            except Auth0Error as error:
                if error.code == "invalid_paging":
                    raise _exceeded(endpoint, seen, total) from None
                raise
            page = read_page(raw_users, raw_total)
            seen, total = seen + len(raw_users), page.total
            more = len(raw_users) == PER_PAGE if total is None else seen < total
            if more and not raw_users:
                raise _exceeded(endpoint, seen, total)
            if more:
                number += 1
                ahead = asyncio.ensure_future(fetch(number))
            if raw_users:
                yield page
            if not more:
                return
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)


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


def users_in(answer: Any, endpoint: Endpoint) -> tuple[list[Any], Any]:
    """Return the raw users of a page, and what stands where the total should.

    Raises:
        MalformedAnswer: there is no list of users.
    """
    if isinstance(answer, list):  # Auth0 left include_totals aside
        return answer, None
    if isinstance(answer, dict) and isinstance(answer.get("users"), list):
        return answer["users"], answer.get("total")
    raise MalformedAnswer(f"{endpoint}: the answer has no list of users", status=200)


def _exceeded(endpoint: Endpoint, seen: int, total: int | None) -> PagingWindowExceeded:
    of = "an unknown number" if total is None else str(total)
    return PagingWindowExceeded(
        f"{endpoint}: Auth0 showed {seen} users of {of} and pages no further; "
        "narrow the query, or enumerate the users in another way",
        status=400,
        code="invalid_paging",
    )
