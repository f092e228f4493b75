"""Tables of what worker processes tell each other."""

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
    """When a Celery worker last said that it works."""

    __tablename__ = "worker_heartbeats"

    # As Celery names it: `interactive@host`.
    worker: Mapped[str] = mapped_column(primary_key=True)
    # Those it consumes now: none while it does not reach its broker.
    queues: Mapped[list[str]]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    # Of its program; null of those that do not record it.
    version: Mapped[str | None]
