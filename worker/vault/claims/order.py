"""Orders the renewal of every grant, as after a leak.

The order is a column of the row: it survives the command's end, and the workers also execute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from worker.vault.db.sql import load
from worker.vault.vault import Vault

# Grants of one statement, which locks them for some milliseconds.
BATCH_SIZE = 500

_ORDER = load(__file__, "order_renewals")
_COUNT = text("""
SELECT count(*) FROM grants
WHERE renewal_ordered_at IS NOT NULL AND state IN ('active', 'in_doubt') AND tenant = ANY(:tenants)
    AND (CAST(:connection AS text) IS NULL OR connection = :connection)
""")


async def order_renewals(
    vault: Vault, tenants: Sequence[str], connection: str | None = None, *, now: datetime
) -> int:
    """Make all renewable grants due; return how many.

    Args:
        connection: the connection's name; None for all.
    """
    values = {"tenants": list(tenants), "connection": connection, "now": now, "limit": BATCH_SIZE}
    count, after = 0, 0
    while rows := await vault.run(_ORDER, values | {"after": after}):
        count, after = count + len(rows), max(row[0] for row in rows)
    return count


async def count_ordered(vault: Vault, tenants: Sequence[str], connection: str | None = None) -> int:
    """Count the grants whose ordered renewal is still to come."""
    rows = await vault.run(_COUNT, {"tenants": list(tenants), "connection": connection})
    return int(rows[0][0])
