"""The table of tokens to revoke."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class RevocationRow(Base):
    """The tokens of one grant that an operator wants revoked.

    Each request has its own row: a user may sign in again before the earlier tokens are revoked.
    """

    __tablename__ = "revocations"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    grant_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("grants.id", ondelete="CASCADE"))
    # The grant's key when the tokens were moved here, as they are encrypted for it.
    tenant: Mapped[str]
    connection: Mapped[str]
    user_id: Mapped[str]
    provider_user_id: Mapped[str]
    requested_at: Mapped[datetime]
    # When the refresh token was moved here; null while a renewal is using it.
    taken_at: Mapped[datetime | None]
    # Whether an earlier call's outcome is unknown: the provider may have issued a token that nobody has.
    in_doubt: Mapped[bool]
    access_ciphertext: Mapped[bytes | None]
    access_version: Mapped[int] = mapped_column(BigInteger)
    access_expires_at: Mapped[datetime | None]
    refresh_ciphertext: Mapped[bytes | None]
    refresh_version: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    # Why the tokens could not be revoked, or why the last call failed.
    code: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("outcome IN ('revoked', 'not_revoked')", name="outcome"),
        CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name="finished_has_outcome"),
        CheckConstraint(
            "outcome <> 'revoked' OR (access_ciphertext IS NULL AND refresh_ciphertext IS NULL)",
            name="revoked_is_empty",
        ),
        Index("revocations_grant_idx", "grant_id"),
        Index(
            "revocations_pending_idx",
            "tenant",
            "connection",
            "id",
            postgresql_where=text("finished_at IS NULL"),
        ),
    )
