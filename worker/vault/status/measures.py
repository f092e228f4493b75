"""What monitoring shows of the vault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.vault import heartbeats
from worker.vault.db.sql import load
from worker.vault.vault import Database

# Those of the Celery application.
QUEUES = ("interactive", "renew", "sync")

_SELECT = load(__file__, "measures")


class Measure(NamedTuple):
    """One value.

    Attributes:
        metric: which, as measures.sql names it.
        label: the state, queue or the like that tells the metric's values apart.
    """

    metric: str
    tenant: str | None
    connection: str | None
    label: str | None
    value: float


async def measure_vault(database: Database, tenants: Sequence[str]) -> list[Measure]:
    """Return all values, as of one moment.

    Args:
        tenants: whose; empty for all of the vault.
    """
    values = {"tenants": list(tenants) or None, "alive": heartbeats.ALIVE_FOR, "queues": list(QUEUES)}
    return [Measure._make(row) for row in await database.run(_SELECT, values)]
