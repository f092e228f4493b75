"""The vault's values for monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.vault import heartbeats
from worker.vault.db.sql import load
from worker.vault.vault import Database

# The queues of the Celery application.
QUEUES = ("interactive", "renew", "sync")

_SELECT = load(__file__, "measures")


class Measure(NamedTuple):
    """One value.

    Attributes:
        metric: its name in measures.sql.
        label: the state, queue or the like that distinguishes the metric's values.
    """

    metric: str
    tenant: str | None
    connection: str | None
    label: str | None
    value: float


async def measure_vault(database: Database, tenants: Sequence[str]) -> list[Measure]:
    """Return all values at one moment.

    Args:
        tenants: of these; empty for all.
    """
    values = {"tenants": list(tenants) or None, "alive": heartbeats.ALIVE_FOR, "queues": list(QUEUES)}
    return [Measure._make(row) for row in await database.run(_SELECT, values)]
