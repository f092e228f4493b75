"""Grants whose identity Auth0 seems not to have.

A search result without a user proves nothing, as the search is eventually consistent, and an identity that a user
lacks may have been linked to another. So these grants are only marked here, and erased after that is confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from token_vault.grant_key import GrantKey
from worker.vault.db.arrays import text_array
from worker.vault.db.sql import load
from worker.vault.grants.identities import identity_parameters
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class MissingGrant:
    """A grant that is marked missing, and since when."""

    id: int
    key: GrantKey
    since: datetime


_MARK_USERS = text("""
UPDATE grants SET missing_since = :now
WHERE user_id = ANY(:user_ids) AND tenant = :tenant AND user_id <> '' AND missing_since IS NULL AND state <> 'erased'
RETURNING id
""")


async def mark_users(vault: Vault, tenant: str, user_ids: Sequence[str], *, now: datetime) -> int:
    """Mark the grants of users whom Auth0 does not have.

    Returns:
        The number of newly marked grants.
    """
    if not user_ids:
        return 0
    values = {"tenant": tenant, "user_ids": list(user_ids), "now": now}
    return len(await vault.run(_MARK_USERS, values))


_WITHDRAW = text("""
UPDATE grants SET withdrawn_at = :now
WHERE user_id = ANY(:user_ids) AND tenant = :tenant AND missing_since IS NOT NULL AND withdrawn_at IS NULL
RETURNING id
""")


async def withdraw(vault: Vault, tenant: str, user_ids: Sequence[str], *, now: datetime) -> list[int]:
    """Stop serving missing users' grants; return their ids.

    It is undone when Auth0 shows the user again, or another user with the identity.
    """
    values = {"tenant": tenant, "user_ids": list(user_ids), "now": now}
    return [grant_id for (grant_id,) in await vault.run(_WITHDRAW, values)]


_MARK_UNDATED = text("""
UPDATE grants SET missing_since = :now
WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL
    AND user_created_at IS NULL AND created_at < :before
RETURNING id
""")


async def mark_undated(vault: Vault, tenant: str, *, before: datetime, now: datetime) -> int:
    """Mark grants older than a scan that no scan showed.

    These have no time of their user's creation, which a scan would have stored.
    """
    return len(await vault.run(_MARK_UNDATED, {"tenant": tenant, "before": before, "now": now}))


_MARK_UNLINKED = load(__file__, "mark_unlinked")


async def mark_unlinked(
    vault: Vault, tenant: str, user_ids: Sequence[str], identities: Sequence[GrantKey], *, now: datetime
) -> int:
    """Mark grants of identities that their users no longer have.

    Args:
        user_ids: of users who were just read.
        identities: all identities of these users.
    """
    if not user_ids:
        return 0
    values = {"tenant": tenant, "read_users": text_array(user_ids), "now": now}
    return len(await vault.run(_MARK_UNLINKED, identity_parameters(identities) | values))


_UNMARK_OBSERVED = load(__file__, "unmark_observed")


async def unmark_observed(
    vault: Vault, tenant: str, identities: Sequence[GrantKey], *, before: datetime
) -> None:
    """Unmark identities that Auth0 has shown after they were marked.

    Args:
        before: grants marked later than this stay marked.
    """
    await vault.run(_UNMARK_OBSERVED, identity_parameters(identities) | {"tenant": tenant, "before": before})


_LIST_MISSING = text("""
SELECT id, tenant, connection, user_id, provider_user_id, missing_since FROM grants
WHERE tenant = :tenant AND missing_since <= :before AND id > :after
ORDER BY id LIMIT :limit
""")


async def list_missing(
    vault: Vault, tenant: str, *, before: datetime, after: int, limit: int
) -> list[MissingGrant]:
    """List grants marked before a time, ordered by id.

    Args:
        after: the last id of the previous page.
    """
    values = {"tenant": tenant, "before": before, "after": after, "limit": limit}
    return [
        MissingGrant(id_, GrantKey(tenant_, connection, user_id, subject), since)
        for id_, tenant_, connection, user_id, subject, since in await vault.run(_LIST_MISSING, values)
    ]


_UNMARK = text("""
UPDATE grants SET missing_since = NULL, withdrawn_at = NULL WHERE id = ANY(:ids) AND missing_since IS NOT NULL
""")


async def unmark(vault: Vault, grant_ids: Sequence[int]) -> None:
    """Unmark grants whose identity Auth0 does have."""
    if grant_ids:
        await vault.run(_UNMARK, {"ids": list(grant_ids)})


_COUNT_MISSING_USERS = text(
    "SELECT count(DISTINCT user_id) FROM grants WHERE tenant = :tenant AND missing_since IS NOT NULL"
)


async def count_missing_users(vault: Vault, tenant: str) -> int:
    """Count users with marked grants; costs the marked rows."""
    ((number,),) = await vault.run(_COUNT_MISSING_USERS, {"tenant": tenant})
    return int(number)


_COUNT_PRESENT = text("""
SELECT count(*) FROM (
    SELECT FROM grants
    WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased' AND missing_since IS NULL LIMIT :limit
) present
""")


async def count_present_grants(vault: Vault, tenant: str, *, limit: int) -> int:
    """Count users' grants that are not marked.

    The count ends at the limit.
    """
    ((number,),) = await vault.run(_COUNT_PRESENT, {"tenant": tenant, "limit": limit})
    return int(number)


_COUNT_USERS = text("""
SELECT count(DISTINCT user_id) FILTER (WHERE missing_since IS NOT NULL), count(DISTINCT user_id)
FROM grants WHERE tenant = :tenant AND user_id <> '' AND state <> 'erased'
""")


async def count_users(vault: Vault, tenant: str) -> tuple[int, int]:
    """Count users with marked grants, and all users.

    It reads all grants of the tenant.
    """
    ((gone, everybody),) = await vault.run(_COUNT_USERS, {"tenant": tenant})
    return int(gone), int(everybody)
