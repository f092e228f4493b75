"""Keys of the tests' vaults, new in each process."""

from __future__ import annotations

from token_vault.keyring import KeyRing

ACCESS_KEY = KeyRing.generate()
REFRESH_KEY = KeyRing.generate()
