"""Digests of refresh tokens, by which providers' events name them.

A security event names a refresh token by its first characters or by its hash. The API, which receives the events,
cannot decrypt tokens, so a worker stores a digest of both beside the grant.

Source: Google, "Cross-Account Protection", OAuth token identifiers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sqlalchemy import text

from token_vault.encryption_context import EncryptionContext
from token_vault.errors import CannotDecrypt
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.vault.db.sql import load
from worker.vault.vault import Database, Vault

PREFIX_CHARACTERS = 16
# Of a digest: enough to identify one token among all, and less than the provider's own hash.
DIGEST_BYTES = 16
# Grants digested in one batch.
BATCH_GRANTS = 500

# Stored for a token that cannot be decrypted, so that it is not tried again before the token is replaced.
_UNREADABLE = b""

_FOLLOW, _PENDING = load(__file__, "follow_digests"), load(__file__, "list_undigested")
# The version shows whether the token was replaced meanwhile.
_STORE = text("""
UPDATE refresh_digests d SET prefix = made.prefix, hash = made.hash
FROM unnest(CAST(:ids AS bigint[]), CAST(:versions AS bigint[]), CAST(:prefixes AS bytea[]), CAST(:hashes AS bytea[]))
    AS made (grant_id, version, prefix, hash)
WHERE d.grant_id = made.grant_id AND d.version = made.version
""")
_FIND = {
    name: text(f"SELECT grant_id FROM refresh_digests WHERE {name} = :digest")  # noqa: S608  # our own columns
    for name in ("prefix", "hash")
}


class TokenName(NamedTuple):
    """An event's name for a refresh token, as a digest."""

    kind: Literal["prefix", "hash"]
    digest: bytes

    @classmethod
    def of(cls, algorithm: object, value: object) -> TokenName | None:
        """Return an event's name for a token; None if malformed.

        Args:
            algorithm, value: the event's ``token_identifier_alg`` and ``token``.
        """
        if not isinstance(value, str) or not value.isascii():
            return None
        if algorithm == "prefix" and len(value) == PREFIX_CHARACTERS:
            return cls("prefix", _digest_of_prefix(value))
        if algorithm == "hash_base64_sha512_sha512":
            try:
                hashed = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                return None
            return cls("hash", hashed[:DIGEST_BYTES]) if len(hashed) == hashlib.sha512().digest_size else None
        return None


async def find_grants(database: Database, name: TokenName) -> list[int]:
    """Return the grants whose refresh token has this name."""
    return [grant_id for (grant_id,) in await database.run(_FIND[name.kind], {"digest": name.digest})]


async def digest_refresh_tokens(vault: Vault, tenants: Sequence[str], connections: Sequence[str]) -> int:
    """Store the digests of these connections' refresh tokens.

    After the first call for a connection, triggers add a row for each new refresh token, which the next call fills in.

    Returns:
        The number of digested tokens.
    """
    named = {"tenants": list(tenants), "connections": list(connections)}
    await vault.run(_FOLLOW, named)
    number = 0
    while rows := await vault.run(_PENDING, {"tenants": list(tenants), "limit": BATCH_GRANTS}):
        digests = [_digests(vault, *row) for row in rows]
        values = {
            "ids": [row[0] for row in rows],
            "versions": [row[1] for row in rows],
            "prefixes": [prefix for prefix, _ in digests],
            "hashes": [hash_ for _, hash_ in digests],
        }
        await vault.run(_STORE, values)
        number += len(rows)
    return number


def _digests(  # one column of a row each
    vault: Vault,
    _id: int,
    version: int,
    ciphertext: bytes,
    tenant: str,
    connection: str,
    user: str,
    account: str,
) -> tuple[bytes | None, bytes]:
    context = EncryptionContext.of_grant(GrantKey(tenant, connection, user, account), "refresh", version)
    try:
        return digests_of(vault.refresh.decrypt(context, ciphertext))
    except CannotDecrypt:
        return None, _UNREADABLE


def digests_of(token: Secret) -> tuple[bytes | None, bytes]:
    """Return the digests of a token's prefix and hash."""
    value = token.reveal()
    prefix = _digest_of_prefix(value[:PREFIX_CHARACTERS]) if len(value) > PREFIX_CHARACTERS else None
    once = hashlib.sha512(value.encode()).digest()
    return prefix, hashlib.sha512(once).digest()[:DIGEST_BYTES]


def _digest_of_prefix(prefix: str) -> bytes:
    return hashlib.sha512(prefix.encode()).digest()[:DIGEST_BYTES]
