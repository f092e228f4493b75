"""No ciphertext opens anywhere but in its own row, field, version and end, and none that was changed."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta

import pytest

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, WrongContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret

RING = KeyRing("access", [KeyRing.generate(), KeyRing.generate()])
BEGIN = datetime(2026, 11, 28, 12, tzinfo=UTC)
# `make properties` runs all 100,000, which takes six seconds.
TRIALS = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "new" else 2_000


@pytest.mark.hypothesis  # as the properties, run in numbers by `make properties`
def test_moves_and_bit_flips_are_refused() -> None:
    """Of many ciphertexts that are moved, flipped in a bit, or given another end or version, none opens."""
    dice = random.Random(12)
    contexts = [
        EncryptionContext.of_access_token(GrantKey("t", "c", f"user|{user}", str(user)), version, end)
        for user in range(5)
        for version in (1, 2)
        for end in (None, BEGIN, BEGIN + timedelta(microseconds=1), datetime(2099, 1, 1, tzinfo=UTC))
    ]
    sealed = {context: RING.encrypt(context, Secret("canary")) for context in contexts}
    refused = 0
    for _ in range(TRIALS):
        context = dice.choice(contexts)
        ciphertext = sealed[context]
        if dice.random() < 0.5:  # bits alone
            damaged = bytearray(ciphertext)
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
            ciphertext = bytes(damaged)
        else:  # another row, version or end
            context = dice.choice([other for other in contexts if other is not context])
        try:
            RING.decrypt(context, ciphertext)
        except CannotDecrypt:
            refused += 1
    assert refused == TRIALS


def test_the_end_is_part_of_the_context() -> None:
    """An end that is moved by a microsecond, set or removed is refused, and the message names it."""
    key = GrantKey("t", "c", "user|1", "1")
    context = EncryptionContext.of_access_token(key, 1, BEGIN)
    ciphertext = RING.encrypt(context, Secret("canary"))
    assert RING.decrypt(context, ciphertext).reveal() == "canary"
    for end in (None, BEGIN + timedelta(microseconds=1), datetime(2099, 1, 1, tzinfo=UTC)):
        with pytest.raises(WrongContext, match="end 2026-11-28T12:00:00"):
            RING.decrypt(EncryptionContext.of_access_token(key, 1, end), ciphertext)


def test_a_token_from_before_gets_its_end() -> None:
    """A ciphertext without an end opens as before, and encrypting it again binds it to the end of its row."""
    key = GrantKey("t", "c", "user|1", "1")
    before = RING.encrypt(EncryptionContext.of_grant(key, "access", 1), Secret("canary"))
    context = EncryptionContext.of_access_token(key, 1, BEGIN)
    assert RING.decrypt(context, before).reveal() == "canary"
    fresh = RING.reencrypt(context, before)
    assert fresh is not None
    assert RING.reencrypt(context, fresh) is None
    assert RING.decrypt(context, fresh).reveal() == "canary"
    with pytest.raises(CannotDecrypt):
        RING.decrypt(EncryptionContext.of_access_token(key, 1, None), fresh)
