"""Keyed fingerprints, which show a change without the token itself."""

from __future__ import annotations

import hmac
import json

from token_vault.secret import Secret


class Fingerprints:
    """Makes keyed fingerprints of tokens and clients.

    The key is stored in the vault, encrypted under the refresh ring, and stays the same when the rings are rotated: with
    a new key, every stale copy at Auth0 would look new.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key.reveal().encode()

    def of_secret(self, secret: Secret) -> bytes:
        """Fingerprint one secret."""
        return hmac.digest(self._key, secret.reveal().encode(), "sha256")

    def of(self, *parts: Secret | str | None) -> bytes:
        """Fingerprint several values; None counts as a value."""
        values = [part.reveal() if isinstance(part, Secret) else part for part in parts]
        return hmac.digest(self._key, json.dumps(values).encode(), "sha256")
