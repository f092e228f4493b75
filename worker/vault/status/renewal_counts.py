"""Renewals counted by minute, connection and outcome."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert

from worker.vault.db.tables import RenewalCount
from worker.vault.vault import Vault

COUNT_RETENTION = timedelta(days=7)


async def count_renewals(
    vault: Vault, outcomes: Mapping[tuple[str, str, str], int], *, now: datetime
) -> None:
    """Add outcomes to the counts of this minute.

    Args:
        outcomes: the number of renewals by tenant, connection and outcome.
    """
    if not outcomes:
        return
    minute = now.replace(second=0, microsecond=0)
    statement = insert(RenewalCount).values(
        [
            {"minute": minute, "tenant": tenant, "connection": name, "outcome": outcome, "count": count}
            for (tenant, name, outcome), count in sorted(outcomes.items())
        ]
    )
    async with vault.engine.begin() as connection:
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["minute", "tenant", "connection", "outcome"],
                set_={"count": RenewalCount.count + statement.excluded.count},
            )
        )


async def delete_old(vault: Vault, *, now: datetime) -> None:
    """Delete counts past their retention."""
    await vault.run(delete(RenewalCount).where(RenewalCount.minute < now - COUNT_RETENTION))
