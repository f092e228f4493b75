"""The token that a reader hands out."""

from __future__ import annotations

from datetime import datetime
from typing import NoReturn

_INSTEAD = "pass token.value where it is used, or user and connection, and read the token there"


class Token:
    """An access token for a provider's API.

    It prints without its value and is not serialised.

    Attributes:
        value: the token itself.
        expires_at: when it ends (UTC); None where nobody said.
        scopes: what it may do; None where nobody said.
    """

    __slots__ = ("expires_at", "scopes", "value")

    def __init__(self, value: str, expires_at: datetime | None, scopes: tuple[str, ...] | None) -> None:
        self.value = value
        self.expires_at = expires_at
        self.scopes = scopes

    def __repr__(self) -> str:
        return f"Token(value=…, expires_at={self.expires_at!r}, scopes={self.scopes!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a Token is not pickled: {_INSTEAD}")

    def __json__(self) -> NoReturn:  # asked for by kombu, which serialises what Celery's tasks are given
        raise TypeError(f"a Token is not serialised: {_INSTEAD}")


# The standard library's json asks a value for nothing: all that it says of one it cannot serialise is this name.
Token.__name__ = f"Token ({_INSTEAD})"
