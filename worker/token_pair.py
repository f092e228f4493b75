"""The tokens that one answer brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from token_vault.secret import Secret


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token with all that came with it.

    Attributes:
        access: the access token; None where there is only a refresh token.
        refresh: the refresh token; None where the answer had none (absent, null or empty).
        expires_at: when the access token ends (UTC); None where that is unknown.
        refresh_expires_at: the sliding end, where the provider said it: unused until then, the refresh token ends.
        scopes: the granted scopes; None where the answer did not name them (unchanged then).
        consent_expires_at: the hard end, where the provider said it: no renewal puts it off.
        extra: values beside the token that an API call needs, e.g. ``instance_url``; empty where the answer had none
            (unchanged then).
    """

    access: Secret | None
    refresh: Secret | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    consent_expires_at: datetime | None = None
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def lacks_access(self) -> bool:
        """Whether only a refresh token came."""
        return self.access is None and self.refresh is not None
