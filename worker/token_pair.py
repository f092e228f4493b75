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
        access: the access token; None if the answer had only a refresh token.
        refresh: the refresh token; None if the answer had none (absent, null or empty).
        expires_at: when the access token ends (UTC); None if unknown.
        refresh_expires_at: the sliding end, if the provider names it: the refresh token ends then unless it is used.
        scopes: the granted scopes; None if the answer did not name them (then they are unchanged).
        consent_expires_at: the hard end, if the provider names it: renewals do not extend it.
        extra: values beside the token that an API call needs, e.g. ``instance_url``; empty if the answer had none
            (then they are unchanged).
        counted_consent_end: the hard end by the provider's declaration, if the answer does not name one: the consent ends
            then at the latest.
    """

    access: Secret | None
    refresh: Secret | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    consent_expires_at: datetime | None = None
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    counted_consent_end: datetime | None = None

    @property
    def lacks_access(self) -> bool:
        """Whether only a refresh token came."""
        return self.access is None and self.refresh is not None
