"""Encrypts refresh tokens for their new owner."""

from __future__ import annotations

from collections.abc import Sequence

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret


class TransferCipher:
    """Encrypts with a key that two vaults share.

    A ciphertext is bound to its grant, but not to the tenant, which may have another name in the other vault.

    Args:
        keys: Fernet keys; the first one encrypts.

    Raises:
        ConfigurationError: one of them is not a Fernet key.
    """

    def __init__(self, keys: Sequence[Secret]) -> None:
        self._ring = KeyRing("refresh", keys)

    def encrypt(self, key: GrantKey, refresh: Secret) -> str:
        """Encrypt a grant's refresh token, as a Fernet token."""
        return self._ring.encrypt(_context(key), refresh).decode()

    def decrypt(self, key: GrantKey, ciphertext: str) -> Secret | None:
        """Decrypt it; None under another key or grant."""
        try:
            return self._ring.decrypt(_context(key), ciphertext.encode())
        except CannotDecrypt:
            return None


def _context(key: GrantKey) -> EncryptionContext:
    row = (key.connection, key.user_id, key.provider_user_id)
    return EncryptionContext("transfers", row, "refresh")
