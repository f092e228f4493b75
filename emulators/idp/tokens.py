"""A provider's clients, and the tokens of each login."""

import hashlib
from dataclasses import dataclass, field
from typing import overload

Identity = tuple[str, str]  # (connection, the provider's user id); "*admin" is a connection's admin grant
ADMIN = "*admin"


@overload
def digest(token: str) -> str: ...
@overload
def digest(token: None) -> None: ...
def digest(token: str | None) -> str | None:
    """Give the first 12 hex digits of a token's SHA-256."""
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()[:12]


@dataclass(slots=True, eq=False)
class Client:
    """The operator's application at one provider."""

    provider: str
    client_id: str
    secret: str
    tenants: list[str] = field(default_factory=list)  # Entra directories it lives in; empty: any


@dataclass(slots=True, eq=False)
class RefreshToken:
    """One refresh token.

    `spent_at` is set when a rotation has replaced it.
    """

    value: str
    issued_at: float
    used_at: float
    presented: int = 0
    spent_at: float | None = None
    revoked: bool = False
    successor: "AccessToken | None" = None
    presented_at: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class AccessToken:
    """An access token, and the refresh token beside it."""

    value: str
    issued_at: float
    expires_at: float | None
    refresh: RefreshToken | None
    revoked: bool = False
    audience: str = ""  # the resource or scopes that it was asked for

    def live(self, now: float) -> bool:
        """Tell whether the provider's API takes it."""
        return not self.revoked and (self.expires_at is None or now < self.expires_at)


@dataclass(slots=True, eq=False)
class Grant:
    """Everything that descends from one login: a token family."""

    id: str
    provider: str
    client_id: str
    identity: Identity
    scope: str
    access: list[AccessToken] = field(default_factory=list)
    refresh: list[RefreshToken] = field(default_factory=list)
    revocations: list[float] = field(default_factory=list)  # when the client asked for it (RFC 7009)

    def revoke(self) -> None:
        """Kill all tokens of the family."""
        for access in self.access:
            access.revoked = True
        for refresh in self.refresh:
            refresh.revoked = True


@dataclass(frozen=True, slots=True)
class Refused:
    """The reason why a token is not renewed.

    Unknown, expired, revoked or reused.
    """

    kind: str
