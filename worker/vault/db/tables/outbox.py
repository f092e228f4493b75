"""Tables of events and their deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    text,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class OutboxRow(Base):
    """An event: one change of state, without any secret.

    It is written by the transaction that makes the change.
    """

    __tablename__ = "outbox"

    id: Mapped[Any] = mapped_column(
        UUID(as_uuid=True), primary_key=True, server_default=text("gen_random_uuid()")
    )
    kind: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    tenant: Mapped[str]
    connection: Mapped[str | None]
    # Both empty for an admin grant; null for an event that is about no grant, or a delivered one of a forgotten user.
    user_id: Mapped[str | None]
    provider_user_id: Mapped[str | None]
    provider: Mapped[str | None]
    state: Mapped[str | None]
    reason: Mapped[str | None]
    since: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    message: Mapped[str | None]
    # When it was queued for the webhooks that want it.
    queued_at: Mapped[datetime | None]

    __table_args__ = (
        Index("outbox_latest_idx", "at"),
        Index("outbox_user_idx", "user_id", "tenant"),
        Index("outbox_unqueued_idx", "at", postgresql_where=text("queued_at IS NULL")),
        Index(
            "outbox_forgotten_idx",
            "id",
            postgresql_where=text("kind = 'user.forgotten' AND user_id IS NOT NULL"),
        ),
    )


class DeliveryRow(Base):
    """An event on its way to one webhook."""

    __tablename__ = "deliveries"

    event_id: Mapped[Any] = mapped_column(
        UUID(as_uuid=True), ForeignKey("outbox.id", ondelete="CASCADE"), primary_key=True
    )
    webhook: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    # Since when it is tried; it is given up some time after this.
    queued_at: Mapped[datetime]
    # When it is tried next; while it is claimed, the claim's deadline.
    next_at: Mapped[datetime]
    owner: Mapped[Any | None] = mapped_column(UUID(as_uuid=True))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        Index("deliveries_due_idx", "webhook", "next_at", postgresql_where=text("state = 'pending'")),
    )
