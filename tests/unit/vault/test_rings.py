"""The two rings are refused where they are not safe to use."""

from __future__ import annotations

import pytest

from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.crypto.rings import WrongKeys, read_rings

A, B, C = (KeyRing.generate() for _ in range(3))


@pytest.mark.parametrize(("access", "refresh"), [([A], [A]), ([A, B], [C, A]), ([B, C], [C])])
def test_a_ring_does_not_encrypt_with_the_others_key(access: list[Secret], refresh: list[Secret]) -> None:
    """Readers have the access ring: what its keys decrypt is theirs."""
    with pytest.raises(WrongKeys, match="is in the other ring too"):
        read_rings(access, refresh)


def test_an_older_key_may_be_in_both_until_all_is_rotated() -> None:
    """Whoever had one key for both puts a new one before it, and rotates."""
    access, refresh = read_rings([B, A], [C, A])
    assert access.fingerprints[1] == refresh.fingerprints[1]


@pytest.mark.parametrize("key", [Secret("short"), Secret(A.reveal()[:-4])])
def test_a_key_that_is_none_is_refused(key: Secret) -> None:
    """A short key, or half of one, is named by its place in the ring."""
    with pytest.raises(WrongKeys, match="VAULT_REFRESH_KEYS: key 2 of 2 is not a Fernet key"):
        read_rings([A], [B, key])
