"""Tables of refresh requests, resource tokens and renewal counts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class RefreshDigestRow(Base):
    """Digests by which a provider's events name a refresh token.

    Triggers insert the rows; a worker fills them in.
    """

    __tablename__ = "refresh_digests"

    grant_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("grants.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    # Version of the refresh token that is digested, or will be.
    version: Mapped[int] = mapped_column(BigInteger)
    prefix: Mapped[bytes | None]
    hash: Mapped[bytes | None]

    __table_args__ = (
        Index("refresh_digests_prefix_idx", "prefix"),
        Index("refresh_digests_hash_idx", "hash"),
        Index("refresh_digests_pending_idx", "grant_id", postgresql_where=text("hash IS NULL")),
    )


class RefreshRequestRow(Base):
    """A role's request for a token with more life.

    Readers insert it with the function ``request_refresh``.
    """

    __tablename__ = "refresh_requests"

    # No foreign key: its lock on the grant would last as long as the reader's transaction.
    grant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    requested_by: Mapped[str] = mapped_column(primary_key=True)
    # What the token is for; both empty for the grant's own.
    resource: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    scope: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    requested_at: Mapped[datetime]
    # Until when a reader waits.
    wanted_until: Mapped[datetime]
    # Seconds of life that the token must have left; 0 for the default.
    min_ttl: Mapped[float] = mapped_column(Double)
    due_at: Mapped[datetime]
    # The deadline of the worker that handles it.
    claimed_until: Mapped[datetime | None]
    handled_at: Mapped[datetime | None]
    # The version of the access token that an API refused.
    rejected_version: Mapped[int | None] = mapped_column(BigInteger)
    # The app's request id and trace, of the latest request; a trigger reads them from the settings
    # token_vault.request_id and token_vault.traceparent.
    request_id: Mapped[str | None]
    traceparent: Mapped[str | None]

    __table_args__ = (
        Index(
            "refresh_requests_pending_idx",
            "requested_by",
            "due_at",
            postgresql_where=text("handled_at IS NULL"),
        ),
    )


class ResourceTokenRow(Base):
    """A grant's access token for another resource or scopes."""

    __tablename__ = "resource_tokens"

    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id", ondelete="CASCADE"), primary_key=True)
    resource: Mapped[str] = mapped_column(primary_key=True)
    # The requested scopes, sorted; ``scopes`` has the granted ones.
    scope: Mapped[str] = mapped_column(primary_key=True)
    ciphertext: Mapped[bytes | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    expires_at: Mapped[datetime | None]
    scopes: Mapped[list[str] | None]
    obtained_at: Mapped[datetime | None]
    # Why the last request for it was refused, and who has to act.
    refusal: Mapped[str | None]
    refusal_blame: Mapped[str | None]
    refused_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("resource <> '' OR scope <> ''", name="target"),
        CheckConstraint("refusal_blame IN ('user', 'operator', 'denied')", name="refusal_blame"),
    )


class RenewalCount(Base):
    """Renewals by minute, connection and outcome, for ``status``."""

    __tablename__ = "renewal_counts"

    minute: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    connection: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(Integer)


class RefusalRow(Base):
    """A grant's refusals since its last renewal: evidence."""

    __tablename__ = "refusals"

    grant_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("grants.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    tenant: Mapped[str]
    connection: Mapped[str]
    # The fingerprint of the refused client.
    client: Mapped[bytes]
    suspicion: Mapped[str]
    code: Mapped[str]
    tries: Mapped[int] = mapped_column(Integer)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(
            "suspicion IN ('client', 'unclear', 'held', 'outage', 'throttled')", name="suspicion"
        ),
        CheckConstraint("tries > 0 AND first_at <= last_at", name="whole"),
        Index("refusals_connection_idx", "tenant", "connection", "last_at"),
    )
