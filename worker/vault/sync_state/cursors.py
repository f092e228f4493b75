"""How far each of a tenant's feeds is read.

It is committed with what was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from worker.vault.db.tables import SyncCursorRow
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class SyncCursor:
    """Where a feed goes on.

    Attributes:
        token: in the feed's own terms: a log id, an event id, a job's id, or a time in ISO 8601; None for its beginning.
        page: within those that share one time; of an export, the number of its users once it was read.
        read_until: up to when the feed is known to be read.
        run_id: the run that is under way.
    """

    token: str | None = None
    page: int = 0
    read_until: datetime | None = None
    run_id: int | None = None


async def load(vault: Vault, tenant: str, feed: str) -> SyncCursor | None:
    """Return where a feed goes on.

    None if it was never begun, or has come to its end.
    """
    statement = select(
        SyncCursorRow.token, SyncCursorRow.page, SyncCursorRow.read_until, SyncCursorRow.run_id
    ).where(SyncCursorRow.tenant == tenant, SyncCursorRow.feed == feed)
    async with vault.engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else SyncCursor(*row)


async def save(vault: Vault, tenant: str, feed: str, position: SyncCursor) -> None:
    """Commit where a feed stands."""
    columns = {
        "token": position.token, "page": position.page, "read_until": position.read_until, "run_id": position.run_id,
    }  # fmt: skip
    statement = insert(SyncCursorRow).values(tenant=tenant, feed=feed, **columns)
    await vault.run(
        statement.on_conflict_do_update(
            index_elements=[SyncCursorRow.tenant, SyncCursorRow.feed], set_=columns
        )
    )


async def remove(vault: Vault, tenant: str, feed: str) -> None:
    """Note that a feed has come to its end."""
    await vault.run(delete(SyncCursorRow).where(SyncCursorRow.tenant == tenant, SyncCursorRow.feed == feed))
