"""The vault's own secrets.

These are the fingerprint key, and a value by which the access ring is checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.crypto.rings import WrongKeys
from worker.vault.db.tables import VaultSecret
from worker.vault.location import record_location

# The context is part of each ciphertext, so its field is still `sealed`, the column's name in version 0.1.
FINGERPRINT_KEY = EncryptionContext("vault_secrets", ("fingerprint_key",), "sealed")
ACCESS_RING_CHECK = EncryptionContext("vault_secrets", ("access_ring_check",), "sealed")
_CONTEXTS = (FINGERPRINT_KEY, ACCESS_RING_CHECK)

# Processes that open a new vault at the same time wait here for the first one, and then use its secrets.
_LOCK = text("LOCK TABLE vault_secrets IN SHARE ROW EXCLUSIVE MODE")
_IS_EMPTY = text("""
SELECT NOT EXISTS (SELECT FROM grants) AND NOT EXISTS (SELECT FROM connections WHERE options_ciphertext IS NOT NULL)
""")


async def load_or_create(connection: AsyncConnection, access: KeyRing, refresh: KeyRing) -> Secret:
    """Read the fingerprint key, and check both rings.

    In an empty vault the secrets are created and its location recorded, in the caller's transaction. In a vault with
    grants they are not: a new fingerprint key would make every stale copy at Auth0 look new.

    Raises:
        ConfigurationError: a secret is missing from a vault in use.
        WrongKeys: a ring lacks the key that encrypted it.
    """
    stored = await _load(connection)
    if _missing(stored):
        await connection.execute(_LOCK)
        stored = await _load(connection)
    if missing := _missing(stored):
        if not (await connection.execute(_IS_EMPTY)).scalar_one():
            raise ConfigurationError(
                f"the table vault_secrets lacks {' and '.join(missing)}, while the vault holds what depends on it, as "
                "after a partial restore: nothing was changed. Restore vault_secrets from the same backup as the other "
                "tables"
            )
        await _create(connection, access, refresh, missing)
        stored = await _load(connection)
    _decrypt(access, ACCESS_RING_CHECK, stored)
    return _decrypt(refresh, FINGERPRINT_KEY, stored)


async def check_access_ring(connection: AsyncConnection, access: KeyRing) -> None:
    """Check that the access ring is the vault's.

    Raises:
        ConfigurationError: it is not.
    """
    stored = await _load(connection)
    if ACCESS_RING_CHECK.row[0] in stored:  # otherwise nothing is encrypted yet
        _decrypt(access, ACCESS_RING_CHECK, stored)


def _missing(stored: Mapping[str, bytes]) -> list[str]:
    return [context.row[0] for context in _CONTEXTS if context.row[0] not in stored]


async def _load(connection: AsyncConnection) -> dict[str, bytes]:
    rows = await connection.execute(select(VaultSecret.name, VaultSecret.ciphertext))
    return {row.name: row.ciphertext for row in rows}


async def _create(connection: AsyncConnection, access: KeyRing, refresh: KeyRing, missing: list[str]) -> None:
    rings = {FINGERPRINT_KEY: refresh, ACCESS_RING_CHECK: access}
    rows = [
        {"name": context.row[0], "ciphertext": ring.encrypt(context, KeyRing.generate())}
        for context, ring in rings.items()
        if context.row[0] in missing
    ]
    await connection.execute(insert(VaultSecret).values(rows))
    await record_location(connection)


def _decrypt(ring: KeyRing, context: EncryptionContext, stored: Mapping[str, bytes]) -> Secret:
    try:
        return ring.decrypt(context, stored[context.row[0]])
    except CannotDecrypt:
        raise WrongKeys(
            f"the {ring.name} ring does not open this vault: it was encrypted under other keys. "
            f"Put the missing key into VAULT_{ring.name.upper()}_KEYS (old keys go to the end of the list)"
        ) from None
