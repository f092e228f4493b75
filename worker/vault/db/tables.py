"""The vault's tables, as typed models.

Used inside this room only; migrations are checked against them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

GRANT_STATES = ("active", "unrenewable", "in_doubt", "reauthorization_required", "erased")


class Base(DeclarativeBase):
    """Names of constraints and types of columns of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        str: Text,
        bytes: LargeBinary,
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


class VaultSecret(Base):
    """The vault's own secrets, each encrypted under a ring.

    They are the fingerprint key, and one check for each ring.
    """

    __tablename__ = "vault_secrets"

    name: Mapped[str] = mapped_column(primary_key=True)
    ciphertext: Mapped[bytes]


class ManagementTokenRow(Base):
    """A tenant's Management API token, which all workers share."""

    __tablename__ = "management_tokens"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    # Of the credentials it was minted with: other credentials mint their own.
    minted_with: Mapped[bytes]
    ciphertext: Mapped[bytes]
    scopes: Mapped[list[str] | None]
    expires_at: Mapped[datetime]


class ConnectionRow(Base):
    """An Auth0 connection, and whether its grants can be renewed."""

    __tablename__ = "connections"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    auth0_id: Mapped[str | None]
    strategy: Mapped[str]
    # All of Auth0's options but tokens, as JSON under the refresh ring: client secrets are among them.
    options_ciphertext: Mapped[bytes | None]
    options_version: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    provider: Mapped[str | None]
    client_id: Mapped[str | None]
    # Why no token of this connection can be renewed; null where they can.
    problem: Mapped[str | None]
    problem_message: Mapped[str | None]
    notes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    # Changes when the client's credentials or endpoint change: then the circuit closes by itself.
    client_fingerprint: Mapped[bytes | None]
    circuit_opened_at: Mapped[datetime | None]
    circuit_until: Mapped[datetime | None]
    circuit_code: Mapped[str | None]
    # Who has to act: the operator, or nobody in an outage.
    circuit_blame: Mapped[str | None]
    # Calls in a row that the provider did not answer for itself, with no answer of its own in between.
    failed_calls: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # A grant whose refusal may be its own trouble or the connection's: another one refused decides it.
    suspect_grant: Mapped[int | None] = mapped_column(BigInteger)
    circuit_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    synced_at: Mapped[datetime | None]
    # Since when Auth0 does not seem to have it any more.
    missing_since: Mapped[datetime | None]

    renew: Mapped[str] = mapped_column(server_default=text("'eager'"))
    # What answers have shown of the provider, beyond what is declared of it.
    observed_rotating: Mapped[bool] = mapped_column(server_default=text("false"))
    observed_grace: Mapped[float | None] = mapped_column(Double)
    observed_life: Mapped[timedelta | None] = mapped_column(Interval)
    observed_refresh_life: Mapped[timedelta | None] = mapped_column(Interval)

    __table_args__ = (
        CheckConstraint(
            "(circuit_opened_at IS NULL) = (circuit_until IS NULL) AND (circuit_opened_at IS NULL) = (circuit_code IS NULL)"
            " AND (circuit_opened_at IS NULL) = (circuit_blame IS NULL)",
            name="circuit_whole",
        ),
        CheckConstraint("circuit_blame IN ('operator', 'nobody')", name="circuit_blame"),
        CheckConstraint("renew IN ('eager', 'on-read')", name="renew"),
    )


class GrantRow(Base):
    """The tokens of one identity, or of an administrator."""

    __tablename__ = "grants"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    connection: Mapped[str]
    # Both empty for the admin grant of an enterprise connection.
    user_id: Mapped[str]
    provider_user_id: Mapped[str]

    state: Mapped[str]
    reason: Mapped[str | None]
    reason_since: Mapped[datetime | None]

    access_ciphertext: Mapped[bytes | None]
    access_version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    refresh_ciphertext: Mapped[bytes | None]
    refresh_version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    expires_at: Mapped[datetime | None]
    refresh_expires_at: Mapped[datetime | None]
    scopes: Mapped[list[str] | None]
    obtained_at: Mapped[datetime | None]
    obtained_from: Mapped[str]

    # What Auth0 last showed, so that its stale copy is never mistaken for news.
    observed_access: Mapped[bytes | None]
    observed_refresh: Mapped[bytes | None]
    observed_updated_at: Mapped[datetime | None]
    # When the user was created at Auth0: the order in which a full scan reads the users.
    user_created_at: Mapped[datetime | None]
    # Since when Auth0 does not seem to have the identity any more; nothing is erased before that is confirmed.
    missing_since: Mapped[datetime | None]

    # When the row is next looked at by renewal; null means never.
    due_at: Mapped[datetime | None]
    # The claim is the journal: committed before the request is sent, cleared when its outcome is stored.
    claim_owner: Mapped[Any | None] = mapped_column(UUID(as_uuid=True))
    claimed_at: Mapped[datetime | None]
    claim_until: Mapped[datetime | None]
    # Whether somebody waits for the claim's outcome and wants to be notified.
    awaited: Mapped[bool] = mapped_column(server_default=text("false"))
    # When the oldest attempt began whose outcome for the present refresh token is unknown.
    in_doubt_since: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]
    last_renewed_at: Mapped[datetime | None]
    # The access token whose end was reported, as nothing renews it.
    expiry_reported_version: Mapped[int | None] = mapped_column(BigInteger)
    # The trouble reported last, until it is over; kept by the trigger that writes events.
    reported_trouble: Mapped[str | None]
    # Noted coarsely, and only where a connection's grants are renewed on read.
    last_read_at: Mapped[datetime | None]
    # When a dead grant was last tried by force.
    forced_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        # Leads with what readers ask for; the tenant is part of the key all the same.
        UniqueConstraint("user_id", "connection", "tenant", "provider_user_id"),
        ForeignKeyConstraint(["tenant", "connection"], ["connections.tenant", "connections.name"]),
        CheckConstraint(f"state IN ({', '.join(repr(state) for state in GRANT_STATES)})", name="state"),
        CheckConstraint("obtained_from IN ('auth0', 'renewal')", name="obtained_from"),
        CheckConstraint("(user_id = '') = (provider_user_id = '')", name="subject"),
        CheckConstraint(
            "state <> 'erased' OR (access_ciphertext IS NULL AND refresh_ciphertext IS NULL AND due_at IS NULL)",
            name="erased_is_empty",
        ),
        CheckConstraint(
            "state <> 'reauthorization_required' OR (reason IS NOT NULL AND due_at IS NULL)",
            name="dead_has_reason",
        ),
        CheckConstraint("state <> 'in_doubt' OR in_doubt_since IS NOT NULL", name="doubt_has_time"),
        CheckConstraint(
            "(claim_owner IS NULL) = (claim_until IS NULL) AND (claim_owner IS NULL) = (claimed_at IS NULL)",
            name="claim_whole",
        ),
        CheckConstraint("access_version >= 0 AND refresh_version >= 0", name="versions"),
        # Where an identity was before its user was linked to another.
        Index("grants_subject_idx", "provider_user_id", "connection", "tenant"),
        # Finding due rows costs what is due: each connection's due rows are one range of this index.
        Index(
            "grants_due_idx", "tenant", "connection", "due_at", postgresql_where=text("due_at IS NOT NULL")
        ),
        # A full scan compares the users of each page with the vault's of the same time range.
        Index("grants_scan_idx", "tenant", "user_created_at", postgresql_where=text("user_id <> ''")),
        Index("grants_erased_idx", "reason_since", postgresql_where=text("state = 'erased'")),
        Index(
            "grants_missing_idx",
            "tenant",
            "missing_since",
            postgresql_where=text("missing_since IS NOT NULL"),
        ),
        Index(
            "grants_expiring_idx",
            "tenant",
            "connection",
            "expires_at",
            postgresql_where=text(
                "state = 'unrenewable' AND expiry_reported_version IS DISTINCT FROM access_version"
            ),
        ),
    )


class SyncRun(Base):
    """A run of a sync, and how it ended."""

    __tablename__ = "sync_runs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    scope: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seen: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    new: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    changed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    unchanged: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    stale: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Grants whose identity Auth0 does not have any more: found missing by a full scan, or erased by a sweep.
    gone: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Whether it came to its end, with problems or without.
    complete: Mapped[bool] = mapped_column(server_default=text("false"))
    # How often it was resumed: a full scan that is killed does not begin anew.
    resumed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    notes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    error: Mapped[str | None]

    __table_args__ = (Index("sync_runs_latest_idx", "tenant", "started_at"),)


class SyncCursorRow(Base):
    """How far a sync has read.

    It is committed with each page: a killed sync resumes where it was.
    """

    __tablename__ = "sync_cursors"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    # `users` and `users of …`: a full scan by creation. `updated`: a scan by change. `log`, `events`: Auth0's feeds.
    # `export`: a reconciliation by an export job.
    feed: Mapped[str] = mapped_column(primary_key=True)
    # Where to go on, in the feed's own terms: an id, or a time.
    token: Mapped[str | None]
    page: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Up to when the feed is known to be read.
    read_until: Mapped[datetime | None]
    # The run that is under way.
    run_id: Mapped[int | None] = mapped_column(BigInteger)


class UserToSync(Base):
    """A user whom an export names as changed.

    The row is deleted once the user was asked for by id.
    """

    __tablename__ = "users_to_sync"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)


class RefreshRequestRow(Base):
    """A role's wish for a grant's token with more life, written by ``request_refresh`` for readers."""

    __tablename__ = "refresh_requests"

    # No foreign key: its lock on the grant would last as long as the reader's transaction.
    grant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    requested_by: Mapped[str] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime]
    # Nobody waits after this.
    wanted_until: Mapped[datetime]
    # Seconds of life wanted; 0 for the default.
    min_ttl: Mapped[float] = mapped_column(Double)
    due_at: Mapped[datetime]
    # Until when a worker is at it.
    claimed_until: Mapped[datetime | None]
    handled_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "refresh_requests_pending_idx",
            "requested_by",
            "due_at",
            postgresql_where=text("handled_at IS NULL"),
        ),
    )


class RenewalCount(Base):
    """Renewals by minute, connection and outcome.

    Shown by dashboards and ``status``.
    """

    __tablename__ = "renewal_counts"

    minute: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    connection: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(Integer)


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
    # Both empty for an admin grant, null where no grant is meant, and where the event of a forgotten user was delivered.
    user_id: Mapped[str | None]
    provider_user_id: Mapped[str | None]
    provider: Mapped[str | None]
    state: Mapped[str | None]
    reason: Mapped[str | None]
    since: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    message: Mapped[str | None]
    # When it was put up for delivery to the webhooks that want it.
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
    # Since when it is tried; giving up counts from here.
    queued_at: Mapped[datetime]
    # When it is next tried; while it is claimed, the claim's deadline.
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
