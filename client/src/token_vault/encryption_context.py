"""Where a ciphertext belongs; it decrypts nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quote

from token_vault.grant_key import GrantKey
from token_vault.token_target import TokenTarget


@dataclass(frozen=True, slots=True)
class EncryptionContext:
    """Where a ciphertext belongs: table, row, field and version.

    Attributes:
        row: the row's natural key.
        version: of the field; it rises with each new value.
        end: of an access token, as text; None for other fields.
    """

    table: str
    row: tuple[str, ...]
    field: str
    version: int = 0
    end: str | None = None

    @classmethod
    def of_access_token(cls, key: GrantKey, version: int, expires_at: datetime | None) -> EncryptionContext:
        """Return the context of a grant's own access token.

        Its end is part of the context, so that a role that may write rows cannot make a token last longer.
        """
        identity = (key.tenant, key.connection, key.user_id, key.provider_user_id)
        return cls("grants", identity, "access", version, _end(expires_at))

    @classmethod
    def of_grant(cls, key: GrantKey, field: str, version: int) -> EncryptionContext:
        """Return the context of another field of a grant."""
        return cls("grants", (key.tenant, key.connection, key.user_id, key.provider_user_id), field, version)

    @classmethod
    def of_extra(cls, key: GrantKey) -> EncryptionContext:
        """Return the context of a grant's extra values.

        It has no version: most answers leave these values out, and the stored ones then stay valid.
        """
        return cls.of_grant(key, "extra", 0)

    @classmethod
    def of_resource_token(
        cls, key: GrantKey, target: TokenTarget, version: int, expires_at: datetime | None
    ) -> EncryptionContext:
        """Return the context of a grant's token for a target."""
        identity = (key.tenant, key.connection, key.user_id, key.provider_user_id)
        row = (*identity, target.resource, target.scope)
        return cls("resource_tokens", row, "access", version, _end(expires_at))

    def header(self) -> bytes:
        """Return what the plaintext starts with: one line of JSON."""
        # The same text as json.dumps writes, in half the time: every read needs one.
        parts = [*map(_quote, (self.table, *self.row, self.field)), str(self.version)]
        if self.end is not None:
            parts.append(f'{{"end": {_quote(self.end)}}}')
        return f"[{', '.join(parts)}]\n".encode("ascii")

    def header_without_end(self) -> bytes:
        """Return the header of older access tokens, without an end."""
        return replace(self, end=None).header()

    def __str__(self) -> str:
        end = "" if self.end is None else f", end {self.end}"
        row = " / ".join(part for part in self.row if part)
        return f"{self.table}.{self.field} of {row} (version {self.version}{end})"


def _end(expires_at: datetime | None) -> str:
    return "unknown" if expires_at is None else expires_at.astimezone(UTC).isoformat()
