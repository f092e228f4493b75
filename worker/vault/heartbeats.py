"""Heartbeats: when each worker was last alive, and its queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text

from worker import __version__
from worker.vault.vault import Vault

# A worker records a heartbeat this often.
HEARTBEAT_SECONDS = 10.0
# A worker whose last heartbeat is older counts as dead.
ALIVE_FOR = timedelta(seconds=45)

_RECORD = text("""
WITH gone AS (DELETE FROM worker_heartbeats WHERE seen_at < now() - interval '1 day')
INSERT INTO worker_heartbeats (worker, queues, version, started_at, seen_at)
VALUES (:worker, :queues, :version, :started_at, now())
ON CONFLICT (worker) DO UPDATE SET
    queues = excluded.queues, version = excluded.version, started_at = excluded.started_at, seen_at = excluded.seen_at
""")
_REMOVE = text("DELETE FROM worker_heartbeats WHERE worker = :worker")
_LIST = text("""
SELECT worker, queues, version FROM worker_heartbeats WHERE seen_at > now() - CAST(:alive AS interval) ORDER BY worker
""")


class Heartbeat(NamedTuple):
    """A worker's last heartbeat.

    Attributes:
        queues: the queues that it consumes.
        version: of its program; None for versions that did not record it.
    """

    queues: list[str]
    version: str | None


async def record(vault: Vault, worker: str, queues: Sequence[str], *, started_at: datetime) -> None:
    """Record a worker's heartbeat.

    Args:
        worker: Celery's name for it.
        queues: the queues that it consumes; none while it does not reach its broker.
        started_at: when it was started.
    """
    values = {"worker": worker, "queues": list(queues), "version": __version__, "started_at": started_at}
    await vault.run(_RECORD, values)


async def remove(vault: Vault, worker: str) -> None:
    """Remove a worker that stops."""
    await vault.run(_REMOVE, {"worker": worker})


async def list_alive(vault: Vault) -> dict[str, Heartbeat]:
    """Return the last heartbeat of each worker that is alive."""
    rows = await vault.run(_LIST, {"alive": ALIVE_FOR})
    return {worker: Heartbeat(queues, version) for worker, queues, version in rows}
