"""Values beside an access token, e.g. ``instance_url``, encrypted.

They are not secret, but they say where an app sends its token. They are encrypted because only a worker can produce a
ciphertext under the access ring: a role that may write rows cannot make apps send tokens elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret


def encrypt_extra(ring: KeyRing, key: GrantKey, extra: Mapping[str, str]) -> bytes | None:
    """Encrypt a grant's extra values; None if there are none."""
    if not extra:
        return None
    return ring.encrypt(EncryptionContext.of_extra(key), Secret(json.dumps(dict(extra), sort_keys=True)))
