"""How far each of a tenant's feeds has been read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from worker.vault.db.tables import SyncCursorRow
from worker.vault.vault import Vault


@dataclass(frozen=True, slots=True)
class SyncCursor:
    """Where a feed continues.

    Attributes:
        token: depending on the feed, a log id, an event id, a job's id, or a time in ISO 8601; None for its beginning.
        page: the page of the users who share one time; for an export that was read, the number of its users.
        read_until: the time up to which the feed has been read.
        run_id: the sync run that is under way.
    """

    token: str | None = None
    page: int = 0
    read_until: datetime | None = None
    run_id: int | None = None


async def load(vault: Vault, tenant: str, feed: str) -> SyncCursor | None:
    """Return where a feed continues.

    None if it was not begun, or has reached its end.
    """
    statement = select(
        SyncCursorRow.token, SyncCursorRow.page, SyncCursorRow.read_until, SyncCursorRow.run_id
    ).where(SyncCursorRow.tenant == tenant, SyncCursorRow.feed == feed)
    async with vault.engine.connect() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return None if row is None else SyncCursor(*row)


async def save(vault: Vault, tenant: str, feed: str, cursor: SyncCursor) -> None:
    """Commit a feed's cursor."""
    columns = {
        "token": cursor.token, "page": cursor.page, "read_until": cursor.read_until, "run_id": cursor.run_id,
    }  # fmt: skip
    statement = insert(SyncCursorRow).values(tenant=tenant, feed=feed, **columns)
    await vault.run(
        statement.on_conflict_do_update(
            index_elements=[SyncCursorRow.tenant, SyncCursorRow.feed], set_=columns
        )
    )


async def remove(vault: Vault, tenant: str, feed: str) -> None:
    """Remove the cursor of a feed at its end."""
    await vault.run(delete(SyncCursorRow).where(SyncCursorRow.tenant == tenant, SyncCursorRow.feed == feed))
