"""Dead rows of grants, which vacuum should remove."""

from __future__ import annotations

from sqlalchemy import text

from worker.vault.vault import Vault

# Above both limits, claims read mostly dead rows. Below them vacuum works: it tolerates a fifth of a table.
MIN_DEAD_ROWS = 100_000
MIN_DEAD_SHARE = 10

_COUNT = text(
    "SELECT n_dead_tup, n_live_tup FROM pg_stat_all_tables WHERE relid = CAST('grants' AS regclass)"
)


async def count_dead_rows(vault: Vault) -> int:
    """Return their number; 0 if vacuum keeps up."""
    ((dead, living),) = await vault.run(_COUNT)
    return int(dead) if dead >= MIN_DEAD_ROWS and dead >= MIN_DEAD_SHARE * living else 0
