"""The table of consumers; the audit's tables are SQL alone."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class ConsumerRow(Base):
    """An app that may read tokens, and which ones.

    The readers' views are filtered by it.
    """

    __tablename__ = "consumers"

    name: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[str | None] = mapped_column(unique=True)
    role: Mapped[str | None] = mapped_column(unique=True)
    api_key_hash: Mapped[str | None] = mapped_column(unique=True)
    # Null for all tenants.
    tenants: Mapped[list[str] | None]
    connections: Mapped[list[str]]
    users: Mapped[bool]
    admins: Mapped[bool]
    refresh: Mapped[bool]
    impersonate: Mapped[bool] = mapped_column(server_default=text("false"))
    audit: Mapped[str] = mapped_column(server_default=text("'batched'"))
    # Created by a migration, for a role that could already read.
    inherited: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        CheckConstraint(
            "client_id IS NOT NULL OR role IS NOT NULL OR api_key_hash IS NOT NULL", name="named"
        ),
        CheckConstraint("audit IN ('batched', 'strict')", name="audit"),
    )
