"""Keyed fingerprints: a change is seen without keeping the token."""

from __future__ import annotations

import hmac
import json

from token_vault.secret import Secret


class Fingerprints:
    """Makes keyed fingerprints of what Auth0 shows.

    The key lives in the vault, encrypted under the refresh ring, and outlives the rotation of both rings:
    a new key would make every stale copy at Auth0 look new.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key.reveal().encode()

    def of_secret(self, secret: Secret) -> bytes:
        """Fingerprint one secret."""
        return hmac.digest(self._key, secret.reveal().encode(), "sha256")

    def of(self, *parts: Secret | str | None) -> bytes:
        """Fingerprint several values, the absent ones included."""
        values = [part.reveal() if isinstance(part, Secret) else part for part in parts]
        return hmac.digest(self._key, json.dumps(values).encode(), "sha256")
