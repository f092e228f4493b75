"""The resource and scopes of a grant's further access tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# In characters, for the resource and for the scopes: longer than any real one. The database enforces it too.
MAX_TARGET_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class TokenTarget:
    """The resource and scopes that a token is for.

    Both are empty for the grant's own token.

    Attributes:
        resource: as the provider calls it, e.g. ``https://graph.microsoft.com`` (RFC 8707).
        scope: the scopes, sorted, separated by blanks.
    """

    resource: str = ""
    scope: str = ""

    @classmethod
    def of(cls, resource: str | None, scopes: Sequence[str] | None) -> TokenTarget:
        """Check what an app asks for.

        Raises:
            TypeError, ValueError: the caller's mistake.
        """
        if resource is None and scopes is None:
            return DEFAULT_TARGET
        if isinstance(scopes, str):
            raise TypeError("scopes is a sequence of strings: [scope]")
        for argument, value in (("resource", resource), *(("scopes", scope) for scope in scopes or ())):
            if value is None:
                continue
            if not isinstance(value, str):
                raise TypeError(f"{argument}: strings are wanted")
            if not value or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError(f"{argument}: printable text without blanks is wanted")
        found = cls(resource or "", " ".join(sorted(set(scopes or ()))))
        if max(len(found.resource), len(found.scope)) > MAX_TARGET_LENGTH:
            raise ValueError(f"resource and scopes have {MAX_TARGET_LENGTH} characters at the most")
        return found

    @property
    def is_default(self) -> bool:
        """Whether the grant's own token is meant."""
        return not (self.resource or self.scope)

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return the single scopes."""
        return tuple(self.scope.split())

    def __str__(self) -> str:
        return self.resource or self.scope


DEFAULT_TARGET = TokenTarget()
