"""The table of grants."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base

GRANT_STATES = ("active", "unrenewable", "in_doubt", "reauthorization_required", "erased")


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
    # The sliding end of the refresh token, which each renewal extends, and the hard end, which none extends.
    refresh_expires_at: Mapped[datetime | None]
    consent_expires_at: Mapped[datetime | None]
    # When the user consented at the latest, and whether the hard end is counted from it, as no answer named one.
    consented_at: Mapped[datetime | None]
    consent_is_counted: Mapped[bool] = mapped_column(server_default=text("true"))
    scopes: Mapped[list[str] | None]
    obtained_at: Mapped[datetime | None]
    obtained_from: Mapped[str]

    # Fingerprints of what Auth0 last showed, so that its stale copy is never mistaken for a new token.
    observed_access: Mapped[bytes | None]
    observed_refresh: Mapped[bytes | None]
    observed_updated_at: Mapped[datetime | None]
    # Fingerprint of the refresh token that an import brought, and the time of the import.
    imported_refresh: Mapped[bytes | None]
    imported_at: Mapped[datetime | None]
    # When the user was created at Auth0; a full scan reads users in this order.
    user_created_at: Mapped[datetime | None]
    # Since when Auth0 seems not to have the identity; it is erased only after that is confirmed.
    missing_since: Mapped[datetime | None]
    # Since when it is not served, because Auth0 does not have the user.
    withdrawn_at: Mapped[datetime | None]

    # When the grant is next due for renewal; null for never.
    due_at: Mapped[datetime | None]
    # The claim is also a journal: committed before the request is sent, cleared when its outcome is stored.
    claim_owner: Mapped[Any | None] = mapped_column(UUID(as_uuid=True))
    claimed_at: Mapped[datetime | None]
    claim_until: Mapped[datetime | None]
    # Whether somebody waits for the end of the claim, and has to be notified.
    awaited: Mapped[bool] = mapped_column(server_default=text("false"))
    # When the oldest attempt with the current refresh token began whose outcome is unknown.
    in_doubt_since: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]
    # When the first of these attempts in a row began; says nothing while there are none.
    failing_since: Mapped[datetime | None]
    # The identity of the client with which a dead grant was refused.
    refused_client: Mapped[bytes | None]
    last_renewed_at: Mapped[datetime | None]
    # The version of the access token whose end was reported, because nothing renews it or its renewals fail.
    expiry_reported_version: Mapped[int | None] = mapped_column(BigInteger)
    # The trouble that was reported last, until it is over; set by the trigger that writes events.
    reported_trouble: Mapped[str | None]
    # How many days before its hard end the consent was last reported, and when it will be next; set by a trigger.
    consent_reported_days: Mapped[int | None] = mapped_column(SmallInteger)
    consent_report_due_at: Mapped[datetime | None]
    # Values beside the access token, as JSON under the access ring: they say where an app sends the token.
    extra_ciphertext: Mapped[bytes | None]
    # Only for connections whose grants are renewed on read, and at most every 12 hours.
    last_read_at: Mapped[datetime | None]
    # When a dead grant was last tried by force.
    forced_at: Mapped[datetime | None]
    # When the operator ordered the renewal of all grants; null once this one is renewed. Nothing postpones it.
    renewal_ordered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        # The columns that readers select by come first.
        UniqueConstraint("user_id", "connection", "tenant", "provider_user_id"),
        ForeignKeyConstraint(["tenant", "connection"], ["connections.tenant", "connections.name"]),
        CheckConstraint(f"state IN ({', '.join(repr(state) for state in GRANT_STATES)})", name="state"),
        CheckConstraint("obtained_from IN ('auth0', 'import', 'renewal')", name="obtained_from"),
        CheckConstraint("(user_id = '') = (provider_user_id = '')", name="subject"),
        CheckConstraint(
            "state <> 'erased' OR (access_ciphertext IS NULL AND refresh_ciphertext IS NULL AND due_at IS NULL)",
            name="erased_is_empty",
        ),
        CheckConstraint("state <> 'reauthorization_required' OR reason IS NOT NULL", name="dead_has_reason"),
        CheckConstraint("state <> 'in_doubt' OR in_doubt_since IS NOT NULL", name="doubt_has_time"),
        CheckConstraint(
            "(claim_owner IS NULL) = (claim_until IS NULL) AND (claim_owner IS NULL) = (claimed_at IS NULL)",
            name="claim_whole",
        ),
        CheckConstraint("withdrawn_at IS NULL OR missing_since IS NOT NULL", name="withdrawn_is_missing"),
        CheckConstraint("access_version >= 0 AND refresh_version >= 0", name="versions"),
        # An identity belongs to one user: stored twice, its two refresh tokens would end each other. It also finds the
        # identity under its earlier user, after it was linked to another.
        Index("grants_identity_idx", "provider_user_id", "connection", "tenant", unique=True),
        # Makes the cost of finding due rows depend on their number: each connection's due rows are one range of it.
        Index(
            "grants_due_idx", "tenant", "connection", "due_at", postgresql_where=text("due_at IS NOT NULL")
        ),
        # A full scan compares the users of each page with the stored ones of the same time range.
        Index("grants_scan_idx", "tenant", "user_created_at", postgresql_where=text("user_id <> ''")),
        # Finds dead grants, which are tried again when the client changes.
        Index(
            "grants_dead_idx",
            "tenant",
            "connection",
            postgresql_where=text("state = 'reauthorization_required'"),
        ),
        Index("grants_erased_idx", "reason_since", postgresql_where=text("state = 'erased'")),
        Index(
            "grants_missing_idx",
            "tenant",
            "missing_since",
            postgresql_where=text("missing_since IS NOT NULL"),
        ),
        # Makes the cost of reporting ending consents depend on the number of due reports.
        Index(
            "grants_consent_idx",
            "tenant",
            "connection",
            "consent_report_due_at",
            postgresql_where=text("consent_report_due_at IS NOT NULL"),
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
