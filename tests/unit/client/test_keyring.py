from __future__ import annotations

import json
import re
import traceback
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from hypothesis import assume, given
from hypothesis import strategies as st

from token_vault import keyring
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError, WrongContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing, _is_canonical
from token_vault.secret import Secret
from worker.vault.crypto.fingerprints import Fingerprints

CANARY = "1//0g-canary-refresh-token"
OLD, NEW, OTHER = (KeyRing.generate() for _ in range(3))
KEY = GrantKey("default", "google-oauth2", "google-oauth2|1111", "1111")
PLACE = EncryptionContext.of_grant(KEY, "refresh", 3)

# Anything that can be encoded: half a surrogate pair cannot, and is stopped at the edge.
TEXT = st.text(st.characters(codec="utf-8"))
PLACES = st.builds(
    EncryptionContext,
    table=TEXT,
    row=st.lists(TEXT, max_size=4).map(tuple),
    field=TEXT,
    version=st.integers(0, 2**63 - 1),
)


def ring(*keys: Secret) -> KeyRing:
    return KeyRing("refresh", keys)


@given(PLACES, TEXT)
def test_what_is_sealed_opens_in_its_place(place: EncryptionContext, value: str) -> None:
    """Any secret sealed for any place opens there as it was."""
    sealed = ring(NEW).encrypt(place, Secret(value))
    assert ring(NEW).decrypt(place, sealed).reveal() == value


@given(PLACES, PLACES, TEXT)
def test_what_is_sealed_opens_nowhere_else(
    place: EncryptionContext, elsewhere: EncryptionContext, value: str
) -> None:
    """No ciphertext opens in another place than its own, however odd the names are."""
    assume(place != elsewhere)
    sealed = ring(NEW).encrypt(place, Secret(value))
    with pytest.raises(CannotDecrypt, match="out of place"):
        ring(NEW).decrypt(elsewhere, sealed)


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, version=2),
        replace(PLACE, version=4),
        replace(PLACE, field="access"),
        replace(PLACE, table="connections"),
        EncryptionContext.of_grant(replace(KEY, tenant="other"), "refresh", 3),
        EncryptionContext.of_grant(replace(KEY, connection="google"), "refresh", 3),
        EncryptionContext.of_grant(replace(KEY, user_id="google-oauth2|2222"), "refresh", 3),
        EncryptionContext.of_grant(replace(KEY, provider_user_id="2222"), "refresh", 3),
        EncryptionContext.of_grant(GrantKey("default", "google-oauth2"), "refresh", 3),
    ],
    ids=str,
)
def test_a_misplaced_ciphertext_names_both_places(elsewhere: EncryptionContext) -> None:
    """The error says where the ciphertext was found and where it belongs, and nothing of what it holds."""
    sealed = ring(NEW).encrypt(PLACE, Secret(CANARY))
    with pytest.raises(CannotDecrypt) as caught:
        ring(NEW).decrypt(elsewhere, sealed)
    assert str(PLACE) in str(caught.value)
    assert str(elsewhere) in str(caught.value)
    assert CANARY not in _all_of(caught.value)


def test_the_first_key_seals_and_every_key_opens() -> None:
    """A ring with a new key in front opens what the old one sealed, and seals what the new one opens alone."""
    sealed_before = ring(OLD).encrypt(PLACE, Secret(CANARY))
    rotated = ring(NEW, OLD)
    assert rotated.decrypt(PLACE, sealed_before).reveal() == CANARY
    assert ring(NEW).decrypt(PLACE, rotated.encrypt(PLACE, Secret(CANARY))).reveal() == CANARY
    with pytest.raises(CannotDecrypt):
        ring(OLD).decrypt(PLACE, rotated.encrypt(PLACE, Secret(CANARY)))


def test_a_ring_takes_over_anothers_keys() -> None:
    """Who holds a ring goes on with the new keys, without getting another ring."""
    held = ring(OLD)
    held.take_over(ring(NEW))
    assert ring(NEW).decrypt(PLACE, held.encrypt(PLACE, Secret(CANARY))).reveal() == CANARY
    assert held.fingerprints == ring(NEW).fingerprints


@pytest.mark.parametrize("name", ["access", "refresh"])
def test_a_missing_key_is_named_by_its_variable(name: str) -> None:
    """A ring without the key that sealed says which variable lacks it, and where."""
    sealed = ring(OLD).encrypt(PLACE, Secret(CANARY))
    with pytest.raises(CannotDecrypt, match=f"VAULT_{name.upper()}_KEYS") as caught:
        KeyRing("access" if name == "access" else "refresh", [NEW, OTHER]).decrypt(PLACE, sealed)
    assert "google-oauth2|1111" in str(caught.value)
    assert CANARY not in _all_of(caught.value)


@given(st.data())
def test_a_damaged_ciphertext_does_not_open(data: st.DataObject) -> None:
    """One changed, missing or added byte never gives another secret, and no error shows plaintext or key."""
    sealed = ring(NEW).encrypt(PLACE, Secret(CANARY))
    at = data.draw(st.integers(0, len(sealed) - 1))
    drawn = data.draw(st.integers(1, 255))
    # What is drawn may not depend on the ciphertext: that is another one in each run
    changed = bytes([sealed[at] ^ drawn])
    added = bytes([drawn])
    kinds = (sealed[:at], sealed[:at] + changed + sealed[at + 1 :], sealed[:at] + added + sealed[at:])
    found = _open(kinds[data.draw(st.integers(0, 2))])
    if isinstance(found, CannotDecrypt):
        assert CANARY not in _all_of(found)
        assert NEW.reveal() not in _all_of(found)
    else:  # Base64 passes over a foreign byte and over the bits that pad its last character
        assert found.reveal() == CANARY


@given(st.binary(max_size=12) | st.text("AQgw_-=\n+ ", max_size=12).map(str.encode), st.binary(max_size=12))
def test_base64_that_is_written_otherwise_is_not_canonical(odd: bytes, content: bytes) -> None:
    """What Base64 writes is canonical, and no other bytes that are read as the same."""
    assert _is_canonical(urlsafe_b64encode(content))
    try:
        is_written_so = urlsafe_b64encode(urlsafe_b64decode(odd)) == odd
    except ValueError:
        is_written_so = False
    assert _is_canonical(odd) is is_written_so


@given(PLACES, st.none() | TEXT)
def test_a_header_is_json_of_all_parts(place: EncryptionContext, end: str | None) -> None:
    """A header is byte for byte what json.dumps writes, as all ciphertexts before it have it."""
    place = replace(place, end=end)
    parts = [place.table, *place.row, place.field, place.version, *([] if end is None else [{"end": end}])]
    assert place.header() == json.dumps(parts).encode() + b"\n"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_the_vaults_own_words(ciphertext: bytes) -> None:
    """What was never sealed raises CannotDecrypt and nothing else."""
    with pytest.raises(CannotDecrypt, match="cannot be decrypted with VAULT_REFRESH_KEYS"):
        ring(NEW).decrypt(PLACE, ciphertext)


@pytest.mark.parametrize(
    "plaintext", [b"", b"\n", CANARY.encode(), b"[1]\n", b"{}\n", b'["a", "b", null]\n', b"\xff\n"]
)
def test_what_another_program_sealed_under_the_same_key_is_out_of_place(plaintext: bytes) -> None:
    """A ciphertext without a place of its own is refused, and what it holds is not shown."""
    with pytest.raises(CannotDecrypt, match="by another program") as caught:
        ring(NEW).decrypt(PLACE, Fernet(NEW.reveal()).encrypt(plaintext))
    assert CANARY not in _all_of(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "canary-no-key",
        "canary" * 20,
        NEW.reveal()[:-4],
        f"{NEW.reveal()} {OLD.reveal()}",
        "ключ-canary",
        "\0canary",
    ],
    ids=["empty", "a word", "too long", "too short", "two keys", "Cyrillic", "a null"],
)
def test_what_is_no_key_is_named_by_position(wrong: str) -> None:
    """A key that is none is named by its variable and position, never by its value."""
    with pytest.raises(ConfigurationError, match="VAULT_REFRESH_KEYS: key 2 of 3") as caught:
        ring(NEW, Secret(wrong), OLD)
    assert "canary" not in _all_of(caught.value)
    assert not wrong or wrong not in _all_of(caught.value)


@pytest.mark.parametrize(
    ("name", "variable"), [("access", "VAULT_ACCESS_KEYS"), ("refresh", "VAULT_REFRESH_KEYS")]
)
def test_an_empty_ring_names_the_variable_to_set(name: str, variable: str) -> None:
    """Without any key there is no ring, and the error says what to set."""
    with pytest.raises(ConfigurationError, match=variable):
        KeyRing("access" if name == "access" else "refresh", [])


def test_no_two_seals_are_alike() -> None:
    """The same secret sealed twice gives two ciphertexts, so that nobody sees who shares a token."""
    assert ring(NEW).encrypt(PLACE, Secret(CANARY)) != ring(NEW).encrypt(PLACE, Secret(CANARY))


def test_a_ring_prints_no_key() -> None:
    """Neither a ring nor what it is made of shows a key."""
    rings = ring(NEW, OLD)
    assert NEW.reveal() not in repr(rings) + str(vars(rings))


@given(st.lists(st.none() | TEXT, max_size=4), st.lists(st.none() | TEXT, max_size=4))
def test_fingerprints_tell_any_two_lists_apart(some: list[str | None], others: list[str | None]) -> None:
    """Different values, missing ones and other divisions included, have different fingerprints; the same, the same."""
    fingerprints = Fingerprints(NEW)
    assert (fingerprints.of(*some) == fingerprints.of(*others)) == (some == others)


def test_a_fingerprint_is_keyed() -> None:
    """Without the key nobody can test a guess, and a secret counts as its value."""
    assert Fingerprints(NEW).of(Secret(CANARY)) != Fingerprints(OLD).of(Secret(CANARY))
    assert Fingerprints(NEW).of(Secret(CANARY)) == Fingerprints(NEW).of(CANARY)


def _open(ciphertext: bytes) -> Secret | CannotDecrypt:
    try:
        return ring(NEW).decrypt(PLACE, ciphertext)
    except CannotDecrypt as error:
        return error


def _all_of(error: BaseException) -> str:
    """What a log shows of an error: its whole chain."""
    return "".join(traceback.format_exception(error)) + repr(error)


@given(PLACES, TEXT, st.integers(0, 2), st.integers(0, 2**40))
def test_what_is_sealed_again_is_the_same_under_the_first_key(
    place: EncryptionContext, value: str, position: int, sealed_at: int
) -> None:
    """Whatever key of the ring sealed a secret, it comes under the first, in its place and with its time."""
    keys = [NEW, OLD, OTHER]
    plaintext = place.header() + value.encode()
    sealed = Fernet(keys[position].reveal()).encrypt_at_time(plaintext, sealed_at)
    assert ring(*keys).key_index(place, sealed) == position
    fresh = ring(*keys).reencrypt(place, sealed)
    if position == 0:
        assert fresh is None
        return
    assert fresh is not None
    assert ring(NEW).decrypt(place, fresh).reveal() == value
    assert Fernet(NEW.reveal()).extract_timestamp(fresh) == sealed_at


@given(PLACES, PLACES, TEXT, st.sampled_from([NEW, OLD]))
def test_what_is_out_of_place_is_not_sealed_again(
    place: EncryptionContext, elsewhere: EncryptionContext, value: str, key: Secret
) -> None:
    """A ciphertext in another place than its own is refused under whatever key it is: nothing makes it good."""
    assume(place != elsewhere)
    sealed = ring(key).encrypt(place, Secret(value))
    for look in (ring(NEW, OLD).reencrypt, ring(NEW, OLD).key_index):
        with pytest.raises(WrongContext):
            look(elsewhere, sealed)


@given(st.binary(max_size=200))
def test_any_bytes_are_not_sealed_again(ciphertext: bytes) -> None:
    """What was never sealed is refused in the vault's own words."""
    with pytest.raises(CannotDecrypt, match="cannot be decrypted with VAULT_REFRESH_KEYS"):
        ring(NEW, OLD).reencrypt(PLACE, ciphertext)


def test_a_key_is_named_without_being_told() -> None:
    """Each key of a ring has a short name of its own that is the same everywhere and no part of the key."""
    names = ring(NEW, OLD).fingerprints
    assert names == (ring(NEW).fingerprints + KeyRing("access", [OLD]).fingerprints)
    assert len(set(names)) == 2
    assert all(re.fullmatch("[0-9a-f]{8}", name) for name in names)
    with pytest.raises(CannotDecrypt) as caught:
        ring(NEW, OTHER).decrypt(PLACE, ring(OLD).encrypt(PLACE, Secret(CANARY)))
    assert names[0] in str(caught.value)


@given(st.lists(st.sampled_from([NEW, OLD, OTHER]), max_size=8), st.integers(min_value=1, max_value=3))
def test_what_was_read_before_changes_nothing(order: list[Secret], kept: int) -> None:
    """Whatever a ring has decrypted, each key opens its own, and one that was taken out opens nothing."""
    held = ring(NEW, OLD, OTHER)
    for key in order:
        assert held.key_index(PLACE, ring(key).encrypt(PLACE, Secret(CANARY))) == [NEW, OLD, OTHER].index(key)
    held.take_over(ring(*[NEW, OLD, OTHER][:kept]))
    for index, key in enumerate([NEW, OLD, OTHER]):
        if index < kept:
            assert held.key_index(PLACE, ring(key).encrypt(PLACE, Secret(CANARY))) == index
        else:
            with pytest.raises(CannotDecrypt):
                held.decrypt(PLACE, ring(key).encrypt(PLACE, Secret(CANARY)))


class CountedFernet(Fernet):
    """Counts what it was given to decrypt."""

    tries = 0

    def decrypt(self, token: bytes | str, ttl: int | None = None) -> bytes:
        self.tries += 1
        return super().decrypt(token, ttl)


def test_the_key_that_has_served_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that does not decrypt costs as much as one that does: the newest comes first, then what served last."""
    monkeypatch.setattr(keyring, "Fernet", CountedFernet)
    held = ring(NEW, OLD)

    counted = [fernet for _, fernet in held._keys if isinstance(fernet, CountedFernet)]

    def tries(key: Secret) -> list[int]:
        before = [fernet.tries for fernet in counted]
        held.decrypt(PLACE, ring(key).encrypt(PLACE, Secret(CANARY)))
        return [fernet.tries - count for fernet, count in zip(counted, before, strict=True)]

    assert [tries(key) for key in (NEW, OLD, OLD, NEW)] == [[1, 0], [1, 1], [0, 1], [1, 1]]
