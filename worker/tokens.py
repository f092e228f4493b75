"""The values that travel through the vault: secrets, token pairs, and what names a grant."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn


class Secret:
    """A string that cannot be printed, formatted, pickled or serialised by accident.

    Only ``reveal()`` gives the value. Two secrets compare in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the plain value. Call it where the value is used, never where it is passed on."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is never a key of a dictionary

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token with all that came with it, from a provider's answer or from Auth0.

    Attributes:
        access: the access token; None where Auth0 shows only a refresh token.
        refresh: the refresh token; None where the answer had none (absent, null or empty).
        expires_at: when the access token ends (UTC); None where that is unknown.
        refresh_expires_at: when the refresh token ends, where the provider said so.
        scopes: the granted scopes; None where the answer did not name them (unchanged then).
    """

    access: Secret | None
    refresh: Secret | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, order=True)
class GrantKey:
    """What names a grant, in every table and every ciphertext.

    Attributes:
        tenant: the tenant's name in the configuration.
        connection: the name of the Auth0 connection.
        user_id: Auth0's user id; empty for the admin token of an enterprise connection.
        provider_user_id: the user's id at the provider; empty for an admin token.
    """

    tenant: str
    connection: str
    user_id: str = ""
    provider_user_id: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether this is the admin grant of an enterprise connection."""
        return not self.user_id

    def __str__(self) -> str:
        who = f"user {self.user_id}" if self.user_id else "admin"
        return f"{who} of connection {self.connection}"
