"""Tables of the vault's own secrets."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from worker.vault.db.tables.base import Base


class VaultSecret(Base):
    """The vault's own secrets, each encrypted under a ring.

    These are the fingerprint key and the check of the access ring.
    """

    __tablename__ = "vault_secrets"

    name: Mapped[str] = mapped_column(primary_key=True)
    ciphertext: Mapped[bytes]


class ManagementTokenRow(Base):
    """A tenant's Management API token, which all workers share."""

    __tablename__ = "management_tokens"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    # Fingerprint of the credentials with which it was minted; other credentials do not use it.
    minted_with: Mapped[bytes]
    ciphertext: Mapped[bytes]
    scopes: Mapped[list[str] | None]
    expires_at: Mapped[datetime]
