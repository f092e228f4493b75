"""The table of the vault's location."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class VaultLocation(Base):
    """The cluster and database of the vault: one row."""

    __tablename__ = "vault_location"

    is_only: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    # Null if the role could not read it.
    system_identifier: Mapped[str | None]
    database_oid: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime]
    # The id of the transaction that wrote this row. Restoring a dump writes the row in another transaction.
    recorded_by: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("is_only", name="is_only"),)
