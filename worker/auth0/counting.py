"""How large and how busy a tenant is, from the totals that Auth0 shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.auth0.answers import Endpoint
from worker.errors import MissingScope

# Logins, sign-ups and native social logins; what else a login writes into the log would count it twice.
LOGIN_TYPES = ("s", "ss", "sens")

Get = Callable[[Endpoint, str, Mapping[str, str]], Awaitable[Any]]


@dataclass(frozen=True)
class Counts:
    """A tenant's own numbers; None where Auth0 shows none.

    Attributes:
        users: how many there are.
        logins_hour: entries of login types in the log, over the last hour; None without ``read:logs``.
        logins_day: the same over the last 24 hours.
    """

    users: int | None
    logins_hour: int | None
    logins_day: int | None


async def count(get: Get, users: Endpoint, logs: Endpoint, now: datetime) -> Counts:
    """Ask for a page of one entry each, and take its total."""
    one = {"page": "0", "per_page": "1", "include_totals": "true"}

    async def logins(since: datetime) -> int | None:
        start = since.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        query = f"type:({' OR '.join(LOGIN_TYPES)}) AND date:[{start} TO *]"
        try:
            return _total(await get(logs, "/api/v2/logs", {"q": query} | one))
        except MissingScope:
            return None

    return Counts(
        users=_total(
            await get(users, "/api/v2/users", one | {"fields": "user_id", "include_fields": "true"})
        ),
        logins_hour=await logins(now - timedelta(hours=1)),
        logins_day=await logins(now - timedelta(days=1)),
    )


def _total(answer: Any) -> int | None:
    total = answer.get("total") if isinstance(answer, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
