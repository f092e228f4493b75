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
    # Auth0's options without tokens, as JSON under the refresh ring, because they contain client secrets.
    options_ciphertext: Mapped[bytes | None]
    options_version: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    provider: Mapped[str | None]
    client_id: Mapped[str | None]
    # The host to which the connection's tokens may be sent; null until the first sync with a client.
    token_host: Mapped[str | None]
    # Why no token of this connection can be renewed; null if they can.
    problem: Mapped[str | None]
    problem_message: Mapped[str | None]
    notes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    # Changes with the client's credentials or endpoint: then the circuit closes.
    client_fingerprint: Mapped[bytes | None]
    # Fingerprint of the client's id and endpoint alone: refresh tokens belong to these, whatever the secret is.
    client_identity: Mapped[bytes | None]
    # When the identity last changed; null while the first one is in use.
    client_changed_at: Mapped[datetime | None]
    # When the current client last renewed a grant; updated only while the connection is suspected, not at each renewal.
    renewed_at: Mapped[datetime | None]
    # When the provider itself last answered; updated likewise.
    answered_at: Mapped[datetime | None]
    circuit_opened_at: Mapped[datetime | None]
    circuit_until: Mapped[datetime | None]
    circuit_code: Mapped[str | None]
    # Who has to act: the operator, or nobody in an outage.
    circuit_blame: Mapped[str | None]
    circuit_failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    synced_at: Mapped[datetime | None]
    # Whether its refresh tokens are digested, because its provider's security events name them.
    digests_tokens: Mapped[bool] = mapped_column(server_default=text("false"))
    # Since when Auth0 seems to have deleted it.
    missing_since: Mapped[datetime | None]

    renew: Mapped[str] = mapped_column(server_default=text("'eager'"))
    # What answers have shown of the provider beyond its declaration.
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
