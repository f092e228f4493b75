"""The two key rings of a vault, checked before use."""

from __future__ import annotations

from collections.abc import Sequence

from token_vault.errors import ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret


class WrongKeys(ConfigurationError):
    """The keys are not this vault's, or are unsafe."""


def read_rings(access_keys: Sequence[Secret], refresh_keys: Sequence[Secret]) -> tuple[KeyRing, KeyRing]:
    """Return the access ring and the refresh ring.

    An older key may be in both: rows need it until `token-vault keys rotate` has run.

    Raises:
        WrongKeys: a key is missing or malformed, or a ring encrypts with a key of the other.
    """
    try:
        access, refresh = KeyRing("access", access_keys), KeyRing("refresh", refresh_keys)
    except ConfigurationError as error:
        raise WrongKeys(str(error)) from None
    first = access.fingerprints[0], refresh.fingerprints[0]
    if first[0] in refresh.fingerprints or first[1] in access.fingerprints:
        raise WrongKeys(
            "the first key of one ring is in the other ring too, so that every reader could decrypt refresh tokens: "
            "put a new key of its own at the head of VAULT_ACCESS_KEYS and of VAULT_REFRESH_KEYS, keep the shared one "
            "at their end, and run `token-vault keys rotate`"
        )
    return access, refresh
