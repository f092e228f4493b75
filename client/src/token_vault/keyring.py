"""Fernet keys that bind each ciphertext to its context.

Fernet does not authenticate a context, so the ciphertexts of two rows could be swapped unnoticed. Therefore every
plaintext starts with the context that it was encrypted for, and decryption anywhere else is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from string import ascii_letters, digits
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError, WrongContext
from token_vault.secret import Secret

RingName = Literal["access", "refresh"]
VARIABLES: dict[RingName, str] = {"access": "VAULT_ACCESS_KEYS", "refresh": "VAULT_REFRESH_KEYS"}

_KEY = re.compile(r"[A-Za-z0-9_+/-]{43}=")
# URL-safe Base64 (RFC 4648, section 5), without padding.
_ALPHABET = f"{ascii_letters}{digits}-_".encode()


class KeyRing:
    """Fernet keys of one purpose, newest first.

    The newest key encrypts; any key of the ring decrypts.

    Raises:
        ConfigurationError: when there is no key, or one is not a Fernet key (32 bytes, URL-safe base64).
    """

    def __init__(self, name: RingName, keys: Sequence[Secret]) -> None:
        self.name = name
        if not keys:
            raise ConfigurationError(
                f"no key for the {name} ring: set {VARIABLES[name]}; make one with `token-vault keys generate`"
            )
        read = []
        for position, key in enumerate(keys, start=1):
            # Decoding stops at the padding: two keys with a blank between them would be taken for the first one.
            if not _KEY.fullmatch(key.reveal()):
                raise ConfigurationError(
                    f"{VARIABLES[name]}: key {position} of {len(keys)} is not a Fernet key "
                    "(32 bytes as URL-safe base64); make one with `token-vault keys generate`"
                )
            read.append((_key_fingerprint(key), Fernet(key.reveal())))
        self._keys = tuple(read)
        self._last_index = 0

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Return a short hash of each key, newest first."""
        return tuple(fingerprint for fingerprint, _ in self._keys)

    @property
    def _newest(self) -> Fernet:
        return self._keys[0][1]

    def take_over(self, other: KeyRing) -> None:
        """Replace all keys with another ring's."""
        self._keys = other._keys

    def encrypt(self, context: EncryptionContext, secret: Secret) -> bytes:
        """Encrypt a secret for its context, with the newest key."""
        return self._newest.encrypt(context.header() + secret.reveal().encode())

    def decrypt(self, context: EncryptionContext, ciphertext: bytes) -> Secret:
        """Decrypt what was encrypted for this context.

        Raises:
            CannotDecrypt: no key of the ring decrypts it.
            WrongContext: it was encrypted for another context.
        """
        plaintext, _ = self._decrypt(context, ciphertext)
        return Secret(_content(plaintext).decode())

    def key_index(self, context: EncryptionContext, ciphertext: bytes) -> int:
        """Return which key encrypted this, 0 for the newest.

        A Fernet token does not name its key, so each key is tried.

        Raises:
            CannotDecrypt, WrongContext: as ``decrypt``.
        """
        return self._decrypt(context, ciphertext)[1]

    def reencrypt(self, context: EncryptionContext, ciphertext: bytes) -> bytes | None:
        """Encrypt under the newest key; None if it already is.

        The end of an older access token is added to its context as well.
        The ciphertext keeps the time of its first encryption, as with ``MultiFernet.rotate``.

        Raises:
            CannotDecrypt, WrongContext: as ``decrypt``.
        """
        plaintext, index = self._decrypt(context, ciphertext)
        if index == 0 and plaintext.startswith(context.header()):
            return None
        return self._newest.encrypt_at_time(
            context.header() + _content(plaintext), _encryption_time(ciphertext)
        )

    def _decrypt(self, context: EncryptionContext, ciphertext: bytes) -> tuple[bytes, int]:
        """Return the plaintext with its header, and the key's index."""
        found = self._find(context, ciphertext)
        # Raised here, where no variable holds a plaintext: error reports show the variables of each frame.
        if isinstance(found, str):
            raise WrongContext(
                f"a ciphertext is out of place: found at {context}, but it was encrypted {found}"
            )
        if found is None:
            raise CannotDecrypt(
                f"{context} cannot be decrypted with {VARIABLES[self.name]} (here: {', '.join(self.fingerprints)}): "
                "a key that once encrypted it is missing from the ring, or the ciphertext was damaged. A new key has to "
                "be in the ring of every process before one of them encrypts with it"
            )
        return found

    def _find(self, context: EncryptionContext, ciphertext: bytes) -> tuple[bytes, int] | str | None:
        """Try each key; never raises.

        Returns:
            The plaintext and the key's index, the name of the other context that it was encrypted for, or None.
        """
        if not _is_canonical(ciphertext):
            return None
        keys = list(enumerate(self._keys))
        # The wrong key costs as much as the right one, and the next ciphertext usually needs the same key as the last.
        for index, (_, fernet) in keys[self._last_index :] + keys[: self._last_index]:
            try:
                plaintext = fernet.decrypt(ciphertext)
            except InvalidToken:
                continue
            self._last_index = index
            return (plaintext, index) if _is_of(context, plaintext) else _encrypted_for(plaintext)
        return None

    @staticmethod
    def generate() -> Secret:
        """Make a new key."""
        return Secret(Fernet.generate_key().decode())


def _is_of(context: EncryptionContext, plaintext: bytes) -> bool:
    """Whether a plaintext was encrypted for this context.

    The header of older access tokens is built only if the usual one does not match: it costs a tenth of a decryption.
    """
    return plaintext.startswith(context.header()) or plaintext.startswith(context.header_without_end())


def _is_canonical(ciphertext: bytes) -> bool:
    """Whether this is the only Base64 text of its bytes.

    Decoding ignores foreign characters, and padding bits in the last four characters. So only those four are decoded:
    all of it would take half as long as the decryption.
    """
    last = ciphertext[-4:]
    if len(ciphertext) % 4 or ciphertext[:-4].translate(None, _ALPHABET):
        return False
    try:
        return urlsafe_b64encode(urlsafe_b64decode(last)) == last
    except ValueError:
        return False


def _encryption_time(ciphertext: bytes) -> int:
    """Return when a ciphertext was encrypted, in Unix seconds.

    It was decrypted before; Fernet's own method would verify all of it again.
    """
    return int.from_bytes(urlsafe_b64decode(ciphertext[:12])[1:])


def _content(plaintext: bytes) -> bytes:
    """Return what follows the header."""
    return plaintext.partition(b"\n")[2]


def _key_fingerprint(key: Secret) -> str:
    """Name a key without revealing it.

    A plain hash is enough: 32 random bytes cannot be found by guessing.
    """
    return hashlib.sha256(b"token-vault key " + urlsafe_b64decode(key.reveal())).hexdigest()[:8]


def _encrypted_for(plaintext: bytes) -> str:
    """Name the context in a plaintext's header."""
    try:
        parts = json.loads(plaintext.split(b"\n", 1)[0])
        end = parts.pop()["end"] if isinstance(parts[-1], dict) else None
        table, *row, field, version = parts
        return f"for {EncryptionContext(str(table), tuple(map(str, row)), str(field), int(version), end and str(end))}"
    except (ValueError, TypeError, LookupError):
        return "by another program"
