"""The table of pauses."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class PauseRow(Base):
    """An operator's pause, in force while the row exists."""

    __tablename__ = "pauses"

    # Empty for all tenants, or all connections.
    tenant: Mapped[str] = mapped_column(primary_key=True)
    connection: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    # Null if only `resume` ends it.
    until: Mapped[datetime | None]
    reason: Mapped[str]
    paused_by: Mapped[str]

    __table_args__ = (CheckConstraint("tenant <> '' OR connection = ''", name="scope"),)
