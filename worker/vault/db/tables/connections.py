"""The table of connections."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import (
    CheckConstraint,
    Double,
    Integer,
    Interval,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


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
    # The host that the connection's tokens may be sent to; null until one was seen.
    token_host: Mapped[str | None]
    # Why no token of this connection can be renewed; null where they can.
    problem: Mapped[str | None]
    problem_message: Mapped[str | None]
    notes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    # Changes when the client's credentials or endpoint change: then the circuit closes by itself.
    client_fingerprint: Mapped[bytes | None]
    # Of the client's id and endpoint alone: refresh tokens belong to them, whatever the secret is.
    client_identity: Mapped[bytes | None]
    # When the identity last changed; null while the first one is in use.
    client_changed_at: Mapped[datetime | None]
    # When the present client last renewed a grant: kept where it settles a refusal, not at each renewal.
    renewed_at: Mapped[datetime | None]
    # When the provider last answered for itself, kept as coarsely.
    answered_at: Mapped[datetime | None]
    circuit_opened_at: Mapped[datetime | None]
    circuit_until: Mapped[datetime | None]
    circuit_code: Mapped[str | None]
    # Who has to act: the operator, or nobody in an outage.
    circuit_blame: Mapped[str | None]
    circuit_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    synced_at: Mapped[datetime | None]
    # Whether its refresh tokens are digested, as events of its provider name them.
    digests_tokens: Mapped[bool] = mapped_column(server_default=text("false"))
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
