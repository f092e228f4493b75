"""The keys of the tests' vaults, made anew by each process."""

from __future__ import annotations

from token_vault.keyring import KeyRing

ACCESS_KEY = KeyRing.generate()
REFRESH_KEY = KeyRing.generate()
