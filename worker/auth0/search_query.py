"""Queries of the user search, by time or identity.

Source: Auth0, "User Search Query Syntax" (Lucene, search engine v3); "Get Users Endpoint".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from worker.auth0.field_types import parse_text
from worker.auth0.models import Auth0User, UserPage

TimeField = Literal["created_at", "updated_at"]


def ordered_by_time(
    field: TimeField, since: datetime | None, until: datetime | None, connection: str | None
) -> dict[str, str]:
    """Return the query sorted by a time, bounds inclusive."""
    terms = []
    if since or until:
        terms.append(f"{field}:[{_bound(since)} TO {_bound(until)}]")
    if connection is not None:
        terms.append(f"identities.connection:{quote_phrase(connection)}")
    return {"sort": f"{field}:1"} | _search(terms)


def until_parameter(field: str, moment: datetime | None) -> dict[str, str]:
    """Return the parameter that excludes later entries."""
    return {} if moment is None else {"q": f"{field}:[* TO {_bound(moment)}]"}


def by_identity(connection: str, provider_user_id: str) -> dict[str, str] | None:
    """Return the query for an identity (None if it cannot exist)."""
    if not parse_text(connection) or not parse_text(provider_user_id):
        return None
    return _search(
        [
            f"identities.connection:{quote_phrase(connection)}",
            f"identities.user_id:{quote_phrase(provider_user_id)}",
        ]
    )


def filter_holders(page: UserPage, connection: str, provider_user_id: str) -> tuple[Auth0User, ...]:
    """Return a page's users who may hold an identity.

    The search also finds users with the connection of one identity and the id of another.
    """
    return tuple(
        user
        for user in page.users
        if user.malformed
        or any(
            identity.connection == connection and identity.user_id == provider_user_id
            for identity in user.identities
        )
    )


def quote_phrase(value: str) -> str:
    """Return a Lucene phrase that matches only this value."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _search(terms: list[str]) -> dict[str, str]:
    return {"q": " AND ".join(terms), "search_engine": "v3"} if terms else {}


def _bound(moment: datetime | None) -> str:
    if moment is None:
        return "*"
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
