"""Lists and ships the audit, and maintains its partitions.

Listing needs no key ring, so a role without keys can do it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from token_vault.secret import Secret
from worker.vault.db.engine import create_command_engine
from worker.vault.db.errors import explain
from worker.vault.db.sql import load
from worker.vault.vault import Vault

# Records that are shipped in one transaction.
MAX_SHIPPED = 1000

_LIST, _NEXT = load(__file__, "list_records"), load(__file__, "next_records")
# One worker ships at a time; the others skip the locked row.
_LOCK_SHIPPED = text("SELECT shipped_xact, shipped_id FROM audit_state FOR UPDATE SKIP LOCKED")
_SET_SHIPPED = text("UPDATE audit_state SET shipped_xact = :xact, shipped_id = :id")
_MAINTAIN = text("SELECT maintain_audit()")


def list_records(
    database_url: Secret,
    *,
    user_id: str | None,
    consumer: str | None,
    connection: str | None,
    since: datetime | None,
    limit: int,
) -> list[dict[str, Any]]:
    """List records of reads, the newest first; None for any.

    Raises:
        AccessDenied, ConfigurationError, TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    engine = create_command_engine(database_url)
    values = {
        "user_id": user_id,
        "consumer": consumer,
        "connection": connection,
        "since": since,
        "limit": limit,
    }
    try:
        with engine.connect() as connected:
            return [dict(row) for row in connected.execute(_LIST, values).mappings()]
    except DBAPIError as error:
        raise explain(error) from None


async def maintain(vault: Vault) -> None:
    """Make the next months' partitions, and drop old ones."""
    await vault.run(_MAINTAIN)


async def ship(vault: Vault, write: Callable[[Sequence[dict[str, Any]]], Awaitable[None]]) -> int:
    """Pass the next records to ``write``, each at least once.

    Returns:
        The number of records; 0 if another worker is shipping.
    """
    async with vault.engine.begin() as connection:
        state = (await connection.execute(_LOCK_SHIPPED)).one_or_none()
        if state is None:
            return 0
        values = {**state._mapping, "limit": MAX_SHIPPED}
        records = [dict(row) for row in (await connection.execute(_NEXT, values)).mappings()]
        if records:
            last = {name: records[-1][name] for name in ("xact", "id")}
            await write([{name: row[name] for name in row if name not in last} for row in records])
            await connection.execute(_SET_SHIPPED, last)
        return len(records)
