"""Grants whose identity Auth0 does not seem to have any more.

A search result that lacks a user proves nothing, as the search is eventually consistent; an identity that a user
lacks may have been linked to another. So what seems gone is only marked here, and erased once that is confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from token_vault.grant_key import GrantKey
from worker.vault.db.sql import load
from worker.vault.vault import Vault

_MARK_USERS = text("""
UPDATE grants SET missing_since = :now
WHERE user_id = ANY(:user_ids) AND tenant = :tenant AND user_id <> '' AND missing_since IS NULL AND state <> 'erased'
RETURNING id
""")

_MARK_STRETCH = load(__file__, "mark_time_range")

_MARK_UNDATED = text("""
UPDATE grants SET missing_since = :now
WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL
    AND user_created_at IS NULL AND created_at < :before
RETURNING id
""")

_MARK_UNLINKED = load(__file__, "mark_unlinked")

# The few that are marked are found by their own index.
_UNMARK_SHOWN = load(__file__, "unmark_observed")

_ABSENT_CONNECTIONS = text("""
SELECT name, auth0_id FROM connections
WHERE tenant = :tenant AND auth0_id IS NOT NULL AND missing_since IS NULL AND NOT name = ANY(:shown) ORDER BY name
""")

_MARK_CONNECTION = text("""
UPDATE connections SET missing_since = :now WHERE tenant = :tenant AND name = :name AND missing_since IS NULL
""")

_CONNECTIONS = text("""
SELECT coalesce(array_agg(name ORDER BY name) FILTER (WHERE missing_since <= :before), '{}'),
    count(*) FILTER (WHERE missing_since IS NOT NULL), count(*)
FROM connections WHERE tenant = :tenant AND auth0_id IS NOT NULL
""")

_WAITING = text("""
SELECT id, tenant, connection, user_id, provider_user_id, missing_since FROM grants
WHERE tenant = :tenant AND missing_since <= :before AND id > :after
ORDER BY id LIMIT :limit
""")

_FOUND = text("UPDATE grants SET missing_since = NULL WHERE id = ANY(:ids) AND missing_since IS NOT NULL")

_SHARE = text("""
SELECT count(DISTINCT user_id) FILTER (WHERE missing_since IS NOT NULL), count(DISTINCT user_id)
FROM grants WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased'
""")

_PRESENT = text("""
SELECT count(*) FROM (
    SELECT FROM grants
    WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL LIMIT :limit
) present
""")

_COUNT = text(
    "SELECT count(DISTINCT user_id) FROM grants WHERE tenant = :tenant AND missing_since IS NOT NULL"
)

Identity = tuple[str, str, str]
"""Auth0's user id, the connection, and the user's id at the provider."""


@dataclass(frozen=True, slots=True)
class MissingGrant:
    """A grant that seems gone, and since when."""

    id: int
    key: GrantKey
    since: datetime


async def mark_users(vault: Vault, tenant: str, user_ids: Sequence[str], *, now: datetime) -> int:
    """Mark all grants of users whom Auth0 says it does not have; returns how many were not marked before."""
    if not user_ids:
        return 0
    values = {"tenant": tenant, "user_ids": list(user_ids), "now": now}
    return len(await vault.run(_MARK_USERS, values))


async def mark_time_range(
    vault: Vault,
    tenant: str,
    *,
    since: datetime | None,
    until: datetime,
    shown: Sequence[str],
    now: datetime,
) -> int:
    """Mark the grants of users made in a stretch of time of which a walk was shown everybody.

    Args:
        since: inclusive; None from the beginning.
        until: exclusive.
        shown: the ids of those it was shown.
        now: the database's time.
    """
    values = {"tenant": tenant, "since": since, "until": until, "shown": list(shown), "now": now}
    return len(await vault.run(_MARK_STRETCH, values))


async def mark_undated(vault: Vault, tenant: str, *, before: datetime, now: datetime) -> int:
    """Mark grants held since before a walk that no walk has ever shown: it would have told when the user was made."""
    return len(await vault.run(_MARK_UNDATED, {"tenant": tenant, "before": before, "now": now}))


async def mark_unlinked(
    vault: Vault, tenant: str, user_ids: Sequence[str], identities: Iterable[Identity], *, now: datetime
) -> int:
    """Mark what the vault holds of these users beside the identities that they are shown with."""
    if not user_ids:
        return 0
    values = {"tenant": tenant, "user_ids": list(user_ids), "now": now} | _by_column(identities)
    return len(await vault.run(_MARK_UNLINKED, values))


async def unmark_observed(
    vault: Vault, tenant: str, identities: Iterable[Identity], *, before: datetime
) -> None:
    """Take the mark off those of these identities that were marked by then: Auth0 has shown them since."""
    await vault.run(_UNMARK_SHOWN, {"tenant": tenant, "before": before} | _by_column(identities))


def _by_column(identities: Iterable[Identity]) -> dict[str, list[str]]:
    shown = list(identities)
    return {
        "users": [user for user, _, _ in shown],
        "connections": [connection for _, connection, _ in shown],
        "subjects": [subject for _, _, subject in shown],
    }


async def absent_connections(vault: Vault, tenant: str, shown: Sequence[str]) -> dict[str, str]:
    """The names and Auth0's ids of connections that it once had, without these and those already marked."""
    rows = await vault.run(_ABSENT_CONNECTIONS, {"tenant": tenant, "shown": list(shown)})
    return {name: auth0_id for name, auth0_id in rows}  # noqa: C416  # rows are not pairs to dict()


async def mark_connection(vault: Vault, tenant: str, name: str, *, now: datetime) -> None:
    """Mark a connection that Auth0 says it does not have."""
    await vault.run(_MARK_CONNECTION, {"tenant": tenant, "name": name, "now": now})


async def count_connections(vault: Vault, tenant: str, *, before: datetime) -> tuple[list[str], int, int]:
    """The connections marked before then; how many are marked, and how many there are in all."""
    ((names, gone, everything),) = await vault.run(_CONNECTIONS, {"tenant": tenant, "before": before})
    return list(names), int(gone), int(everything)


async def list_missing(
    vault: Vault, tenant: str, *, before: datetime, after: int, limit: int
) -> list[MissingGrant]:
    """The grants marked before then, in the order of their ids from ``after`` on."""
    values = {"tenant": tenant, "before": before, "after": after, "limit": limit}
    return [
        MissingGrant(id_, GrantKey(tenant_, connection, user_id, subject), since)
        for id_, tenant_, connection, user_id, subject, since in await vault.run(_WAITING, values)
    ]


async def unmark(vault: Vault, grant_ids: Sequence[int]) -> None:
    """Take the mark off grants whose identity Auth0 has after all."""
    if grant_ids:
        await vault.run(_FOUND, {"ids": list(grant_ids)})


async def count_missing_users(vault: Vault, tenant: str) -> int:
    """How many users seem gone; costs what is marked."""
    ((number,),) = await vault.run(_COUNT, {"tenant": tenant})
    return int(number)


async def count_present_grants(vault: Vault, tenant: str, *, limit: int) -> int:
    """How many users' grants do not seem gone, counted up to a limit."""
    ((number,),) = await vault.run(_PRESENT, {"tenant": tenant, "limit": limit})
    return int(number)


async def count_users(vault: Vault, tenant: str) -> tuple[int, int]:
    """How many users seem gone, and how many the vault has in all; costs what is stored."""
    ((gone, everybody),) = await vault.run(_SHARE, {"tenant": tenant})
    return int(gone), int(everybody)
