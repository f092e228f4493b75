"""Compares an export of users with the vault.

It finds the users to read by id, and marks those that are missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, text

from worker.vault.db.engine import answer_seconds
from worker.vault.db.sql import load
from worker.vault.db.tables import UserToSync
from worker.vault.vault import Vault

Exported = tuple[str, datetime | None]
"""Auth0's user id, and the user's ``updated_at``."""

# For the comparison, which reads all users and grants of a tenant.
MAX_COMPARISON_SECONDS = 600.0

_CREATE_EXPORTED = text(
    "CREATE TEMPORARY TABLE exported (user_id text, updated_at timestamptz) ON COMMIT DROP"
)

_INSERT_EXPORTED = text("""
INSERT INTO exported SELECT * FROM unnest(CAST(:user_ids AS text[]), CAST(:times AS timestamptz[]))
""")

_FIND_USERS_TO_SYNC = load(__file__, "find_users_to_sync")

_MARK_ABSENT = text("""
UPDATE grants g SET missing_since = :now
WHERE g.tenant = :tenant AND g.user_id <> '' AND g.state <> 'erased' AND g.missing_since IS NULL
    AND greatest(g.user_created_at, g.created_at) < :until
    AND NOT EXISTS (SELECT FROM exported e WHERE e.user_id = g.user_id)
""")


@dataclass(frozen=True, slots=True)
class ExportDiff:
    """The result of comparing an export.

    Attributes:
        users: the number of exported users.
        wanted: how many of them must be read by id.
        gone: how many grants were marked missing, because their users are not in the export.
    """

    users: int
    wanted: int
    gone: int


async def compare_export(
    vault: Vault,
    tenant: str,
    exported: AsyncIterator[Sequence[Exported]],
    *,
    since: datetime,
    until: datetime,
    now: datetime,
) -> ExportDiff:
    """Record users to read by id; mark missing ones.

    It runs in one transaction, and may run twice.

    Args:
        exported: the export's users, in batches.
        since: a user without grants in the vault is read only if changed after this time.
        until: grants and users that are newer than this are ignored.
        now: the database's time.
    """
    users = 0
    async with vault.engine.begin() as connection:
        # Rows that a killed process left of the same export would not be counted again.
        await connection.execute(delete(UserToSync).where(UserToSync.tenant == tenant))
        await connection.execute(_CREATE_EXPORTED)
        async for lines in exported:
            await connection.execute(
                _INSERT_EXPORTED,
                {"user_ids": [name for name, _ in lines], "times": [time for _, time in lines]},
            )
            users += len(lines)
        await connection.execute(text("ANALYZE exported"))
        values = {"tenant": tenant, "since": since, "until": until, "now": now}
        async with answer_seconds(connection, MAX_COMPARISON_SECONDS):
            wanted = await connection.execute(_FIND_USERS_TO_SYNC, values)
            absent = await connection.execute(_MARK_ABSENT, values)
        return ExportDiff(users, wanted.rowcount, absent.rowcount)


async def list_users_to_sync(vault: Vault, tenant: str, *, limit: int) -> list[str]:
    """Return users who are still to be read by id."""
    statement = select(UserToSync.user_id).where(UserToSync.tenant == tenant)
    return [user_id for (user_id,) in await vault.run(statement.order_by(UserToSync.user_id).limit(limit))]


async def count_users_to_sync(vault: Vault, tenant: str) -> int:
    """Count users who are still to be read by id."""
    ((number,),) = await vault.run(
        select(func.count()).select_from(UserToSync).where(UserToSync.tenant == tenant)
    )
    return int(number)


async def delete_users_to_sync(vault: Vault, tenant: str, user_ids: Sequence[str] | None = None) -> None:
    """Delete users who were read by id, or all users."""
    statement = delete(UserToSync).where(UserToSync.tenant == tenant)
    if user_ids is not None:
        statement = statement.where(UserToSync.user_id.in_(user_ids))
    await vault.run(statement)
