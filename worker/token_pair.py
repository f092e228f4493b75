"""The tokens that one answer brought."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from token_vault.secret import Secret


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token with all that came with it.

    Attributes:
        access: the access token; None where Auth0 shows only a refresh token.
        refresh: the refresh token; None where the answer had none (absent, null or empty).
        expires_at: when the access token ends (UTC); None where that is unknown.
        refresh_expires_at: when the refresh token ends, where the provider said so.
        scopes: the granted scopes; None where the answer did not name them (unchanged then).
    """

    access: Secret | None
    refresh: Secret | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
