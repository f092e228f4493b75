"""Two rings of Fernet keys, and ciphertexts that know their place.

Fernet authenticates no context: two rows' ciphertexts could be swapped unnoticed. So every plaintext starts
with the place it was written for, and a ciphertext found anywhere else does not open.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotOpen, ConfigurationError, OutOfPlace
from token_vault.secret import Secret

RingName = Literal["access", "refresh"]
VARIABLES: dict[RingName, str] = {"access": "VAULT_ACCESS_KEYS", "refresh": "VAULT_REFRESH_KEYS"}

_KEY = re.compile(r"[A-Za-z0-9_+/-]{43}=")


class KeyRing:
    """Fernet keys of one purpose, newest first: the first seals, any opens.

    Attributes:
        fingerprints: what names each key to people, in the ring's order: the beginning of a hash.

    Raises:
        ConfigurationError: when there is no key, or one is not a Fernet key (32 bytes, URL-safe base64).
    """

    def __init__(self, name: RingName, keys: Sequence[Secret]) -> None:
        self.name = name
        if not keys:
            raise ConfigurationError(
                f"no key for the {name} ring: set {VARIABLES[name]}; make one with `token-vault keys generate`"
            )
        fernets = []
        for position, key in enumerate(keys, start=1):
            # Base64 is read up to its padding: two keys with a blank between them would pass for the first.
            if not _KEY.fullmatch(key.reveal()):
                raise ConfigurationError(
                    f"{VARIABLES[name]}: key {position} of {len(keys)} is not a Fernet key "
                    "(32 bytes as URL-safe base64); make one with `token-vault keys generate`"
                )
            fernets.append(Fernet(key.reveal()))
        self._fernets = fernets
        self.fingerprints = tuple(_key_fingerprint(key) for key in keys)

    def seal(self, place: EncryptionContext, secret: Secret) -> bytes:
        """Encrypt a secret for its place, under the newest key."""
        return self._fernets[0].encrypt(place.header() + secret.reveal().encode())

    def open(self, place: EncryptionContext, ciphertext: bytes) -> Secret:
        """Decrypt what was sealed for this place.

        Raises:
            CannotOpen: no key of the ring opens it.
            OutOfPlace: it was sealed for another place.
        """
        plaintext, _ = self._opened(place, ciphertext)
        return Secret(plaintext[len(place.header()) :].decode())

    def position(self, place: EncryptionContext, ciphertext: bytes) -> int:
        """Say which key of the ring sealed this, 0 for the first; Fernet names none, so each is tried.

        Raises:
            CannotOpen, OutOfPlace: as ``open``.
        """
        return self._opened(place, ciphertext)[1]

    def reseal(self, place: EncryptionContext, ciphertext: bytes) -> bytes | None:
        """Encrypt again under the first key what an older one sealed for this place; None where the first one did.

        The ciphertext keeps the time at which its secret was first sealed, as with ``MultiFernet.rotate``.

        Raises:
            CannotOpen, OutOfPlace: as ``open``.
        """
        plaintext, position = self._opened(place, ciphertext)
        if position == 0:
            return None
        sealed_at = self._fernets[position].extract_timestamp(ciphertext)
        return self._fernets[0].encrypt_at_time(plaintext, sealed_at)

    def _opened(self, place: EncryptionContext, ciphertext: bytes) -> tuple[bytes, int]:
        """Return the plaintext with its header, and which key opened it."""
        for position, fernet in enumerate(self._fernets):
            try:
                plaintext = fernet.decrypt(ciphertext)
            except InvalidToken:
                continue
            if plaintext.startswith(place.header()):
                return plaintext, position
            raise OutOfPlace(
                f"a ciphertext is out of place: found at {place}, but it was sealed {_sealed_for(plaintext)}"
            )
        raise CannotOpen(
            f"{place} does not open with {VARIABLES[self.name]} (here: {', '.join(self.fingerprints)}): "
            "a key that once sealed it is missing from the ring, or the ciphertext was damaged. A new key has to be "
            "in the ring of every process before one of them seals with it"
        )

    @staticmethod
    def generate() -> Secret:
        """Make a new key."""
        return Secret(Fernet.generate_key().decode())


def _key_fingerprint(key: Secret) -> str:
    """Name a key without telling it: 32 random bytes are not found by trying."""
    return hashlib.sha256(b"token-vault key " + urlsafe_b64decode(key.reveal())).hexdigest()[:8]


def _sealed_for(plaintext: bytes) -> str:
    """Name the place in a plaintext's header; nothing after the header is looked at."""
    try:
        table, *row, field, version = json.loads(plaintext.split(b"\n", 1)[0])
        return f"for {EncryptionContext(str(table), tuple(map(str, row)), str(field), int(version))}"
    except (ValueError, TypeError):
        return "by another program"
