"""Compares an export of users with the vault.

It gives whom to ask for by id, and who seems gone.
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

# The comparison reads a tenant's users and grants as a whole.
MAX_COMPARISON_SECONDS = 600.0

_EXPORTED = text("CREATE TEMPORARY TABLE exported (user_id text, updated_at timestamptz) ON COMMIT DROP")

_LINES = text("""
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
    """What an export comes to.

    Attributes:
        users: how many it names.
        wanted: how many of them are to be asked for by id.
        gone: how many grants were marked as missing, as it does not name their users.
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
    """Record whom to ask for, and mark who is missing.

    All of it or nothing; running it twice does no harm.

    Args:
        exported: the export's users, some at a time.
        since: a user of whom nothing is stored is asked for if changed after it.
        until: nothing is concluded for grants or users newer than that.
        now: the database's time.
    """
    users = 0
    async with vault.engine.begin() as connection:
        # What a killed process noted of the same export would not be counted again.
        await connection.execute(delete(UserToSync).where(UserToSync.tenant == tenant))
        await connection.execute(_EXPORTED)
        async for lines in exported:
            await connection.execute(
                _LINES, {"user_ids": [name for name, _ in lines], "times": [time for _, time in lines]}
            )
            users += len(lines)
        await connection.execute(text("ANALYZE exported"))
        values = {"tenant": tenant, "since": since, "until": until, "now": now}
        async with answer_seconds(connection, MAX_COMPARISON_SECONDS):
            wanted = await connection.execute(_FIND_USERS_TO_SYNC, values)
            absent = await connection.execute(_MARK_ABSENT, values)
        return ExportDiff(users, wanted.rowcount, absent.rowcount)


async def list_users_to_sync(vault: Vault, tenant: str, *, limit: int) -> list[str]:
    """Users who are still to be asked for."""
    statement = select(UserToSync.user_id).where(UserToSync.tenant == tenant)
    return [user_id for (user_id,) in await vault.run(statement.order_by(UserToSync.user_id).limit(limit))]


async def count_users_to_sync(vault: Vault, tenant: str) -> int:
    """How many users are still to be asked for."""
    ((number,),) = await vault.run(
        select(func.count()).select_from(UserToSync).where(UserToSync.tenant == tenant)
    )
    return int(number)


async def delete_users_to_sync(vault: Vault, tenant: str, user_ids: Sequence[str] | None = None) -> None:
    """Delete users who were asked for, or all of them."""
    statement = delete(UserToSync).where(UserToSync.tenant == tenant)
    if user_ids is not None:
        statement = statement.where(UserToSync.user_id.in_(user_ids))
    await vault.run(statement)
