"""What a provider remembers: its clients, and the tokens that descend from each login."""

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
    """Name a token without showing it: the first 12 hex digits of its SHA-256."""
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
    """One refresh token; `spent_at` is set when a rotation has replaced it."""

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
    """One access token, and the refresh token that was live beside it."""

    value: str
    issued_at: float
    expires_at: float | None
    refresh: RefreshToken | None
    revoked: bool = False

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
    """Why a token is not renewed: unknown, expired, revoked or reused."""

    kind: str
