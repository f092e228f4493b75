"""The vault's own secrets.

They are the fingerprint key, and a value that checks the access ring.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.vault.db.tables import VaultSecret

# A context is part of each ciphertext: its field stays `sealed`, whatever the column is called.
FINGERPRINT_KEY = EncryptionContext("vault_secrets", ("fingerprint_key",), "sealed")
ACCESS_RING_CHECK = EncryptionContext("vault_secrets", ("access_ring_check",), "sealed")


async def load_or_create(connection: AsyncConnection, ring: KeyRing, context: EncryptionContext) -> Secret:
    """Read a secret, or create it in a new vault.

    Raises:
        ConfigurationError: the ring lacks the key that encrypted it.
    """
    name = context.row[0]
    new = ring.encrypt(context, KeyRing.generate())
    await connection.execute(insert(VaultSecret).values(name=name, ciphertext=new).on_conflict_do_nothing())
    statement = select(VaultSecret.ciphertext).where(VaultSecret.name == name)
    ciphertext = (await connection.execute(statement)).scalar_one()
    try:
        return ring.decrypt(context, ciphertext)
    except CannotDecrypt:
        raise ConfigurationError(
            f"the {ring.name} ring does not open this vault: it was encrypted under other keys. "
            f"Put the missing key into VAULT_{ring.name.upper()}_KEYS (old keys go to the end of the list)"
        ) from None
