"""Rows of grants that are dead and still there."""

from __future__ import annotations

from sqlalchemy import text

from worker.vault.vault import Vault

# Beyond both a claim reads more dead rows than others: vacuum leaves a fifth of a table.
MIN_DEAD_ROWS = 100_000
MIN_DEAD_SHARE = 10

_COUNT = text(
    "SELECT n_dead_tup, n_live_tup FROM pg_stat_all_tables WHERE relid = CAST('grants' AS regclass)"
)


async def count_dead_rows(vault: Vault) -> int:
    """Return how many there are; 0 where vacuum keeps up."""
    ((dead, living),) = await vault.run(_COUNT)
    return int(dead) if dead >= MIN_DEAD_ROWS and dead >= MIN_DEAD_SHARE * living else 0
