"""Where a ciphertext belongs; it decrypts nowhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass

from token_vault.grant_key import GrantKey
from token_vault.token_target import TokenTarget


@dataclass(frozen=True, slots=True)
class EncryptionContext:
    """Where a ciphertext belongs: table, row, field and version.

    Attributes:
        row: the row's natural key.
        version: of the field; it rises with each new value.
    """

    table: str
    row: tuple[str, ...]
    field: str
    version: int = 0

    @classmethod
    def of_grant(cls, key: GrantKey, field: str, version: int) -> EncryptionContext:
        """Return the context of one token of a grant."""
        return cls("grants", (key.tenant, key.connection, key.user_id, key.provider_user_id), field, version)

    @classmethod
    def of_extra(cls, key: GrantKey) -> EncryptionContext:
        """Return the context of a grant's extra values.

        It has no version: most answers leave the values out, and they stay as they are then.
        """
        return cls.of_grant(key, "extra", 0)

    @classmethod
    def of_resource_token(cls, key: GrantKey, target: TokenTarget, version: int) -> EncryptionContext:
        """Return the context of a grant's token for a target."""
        identity = (key.tenant, key.connection, key.user_id, key.provider_user_id)
        return cls("resource_tokens", (*identity, target.resource, target.scope), "access", version)

    def header(self) -> bytes:
        """Return what the plaintext starts with: one line of JSON."""
        return json.dumps([self.table, *self.row, self.field, self.version]).encode() + b"\n"

    def __str__(self) -> str:
        return f"{self.table}.{self.field} of {' / '.join(part for part in self.row if part)} (version {self.version})"
