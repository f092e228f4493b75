"""Counts a tenant's users, logins and connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.auth0.errors import MalformedAnswer, MissingScope
from worker.auth0.http.responses import Endpoint

Get = Callable[[Endpoint, str, Mapping[str, str]], Awaitable[Any]]


@dataclass(frozen=True)
class TenantCounts:
    """A tenant in numbers.

    Attributes:
        logins_per_day: of the last whole day, UTC; None if the application lacks ``read:stats``.
    """

    users: int
    logins_per_day: int | None
    connections: int


async def count_users(get: Get, users: Endpoint) -> int:
    """Count the users, by the total of one page.

    Raises:
        MalformedAnswer: there is no total.
    """
    query = {"per_page": "1", "include_totals": "true", "fields": "user_id", "include_fields": "true"}
    answer = await get(users, "/api/v2/users", query)
    total = answer.get("total") if isinstance(answer, dict) else None
    if not isinstance(total, int) or isinstance(total, bool) or total < 0:
        raise MalformedAnswer(f"{users}: the answer has no total", status=200)
    return total


async def count_logins_yesterday(get: Get, stats: Endpoint, now: datetime) -> int | None:
    """Count yesterday's logins; None without the scope ``read:stats``.

    Source: Auth0 Management API v2, "Get daily stats" (days are UTC).
    """
    day = (now - timedelta(days=1)).strftime("%Y%m%d")
    try:
        days = await get(stats, "/api/v2/stats/daily", {"from": day, "to": day})
    except MissingScope:
        return None
    entries = days if isinstance(days, list) else []
    logins = [entry.get("logins") for entry in entries if isinstance(entry, dict)]
    return sum(number for number in logins if isinstance(number, int))
