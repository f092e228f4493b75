"""Tables by which worker processes coordinate."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class LeaseRow(Base):
    """One process's right to do named work, until a time."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    held_until: Mapped[datetime]


class WorkerHeartbeatRow(Base):
    """The last heartbeat of a Celery worker."""

    __tablename__ = "worker_heartbeats"

    # Celery's name for it: `interactive@host`.
    worker: Mapped[str] = mapped_column(primary_key=True)
    # The queues that it consumes: none while it does not reach its broker.
    queues: Mapped[list[str]]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    # Of its program; null for versions that did not record it.
    version: Mapped[str | None]
