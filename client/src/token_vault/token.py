"""The token that a reader hands out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import NoReturn

from token_vault.token_target import DEFAULT_TARGET, TokenTarget

_INSTEAD = "pass token.value where it is used, or user and connection, and read the token there"

_NO_EXTRA: Mapping[str, str] = MappingProxyType({})


class Token:
    """An access token for a provider's API.

    It prints without its value and is not serialised.

    Attributes:
        value: the token itself.
        expires_at: when it ends (UTC); None where the provider does not say.
        scopes: what it may do; None where the provider does not say.
        extra: values beside the token that an API call needs, e.g. ``instance_url``; empty for providers that are
            not declared to give any.
        tenant: the tenant's name.
        account: the user's id at the provider; empty for an admin token.
    """

    __slots__ = (
        "access_version",
        "account",
        "expires_at",
        "extra",
        "grant_id",
        "scopes",
        "target",
        "tenant",
        "value",
    )

    value: str
    expires_at: datetime | None
    scopes: tuple[str, ...] | None
    extra: Mapping[str, str]
    tenant: str | None
    account: str | None
    grant_id: int | None
    access_version: int | None
    target: TokenTarget

    def __init__(
        self,
        value: str,
        expires_at: datetime | None,
        scopes: tuple[str, ...] | None,
        *,
        extra: Mapping[str, str] = _NO_EXTRA,
        tenant: str | None = None,
        account: str | None = None,
        grant_id: int | None = None,
        access_version: int | None = None,
        target: TokenTarget = DEFAULT_TARGET,
    ) -> None:
        set_once = partial(object.__setattr__, self)
        set_once("value", value)
        set_once("expires_at", expires_at)
        set_once("scopes", scopes)
        set_once("extra", MappingProxyType(dict(extra)))
        set_once("tenant", tenant)
        set_once("account", account)
        # These identify the stored token for ``rejected``.
        set_once("grant_id", grant_id)
        set_once("access_version", access_version)
        set_once("target", target)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Token does not change: a cache may hand it to many")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Token does not change")

    def __repr__(self) -> str:
        return f"Token(value=…, expires_at={self.expires_at!r}, scopes={self.scopes!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a Token is not pickled: {_INSTEAD}")

    def __json__(self) -> NoReturn:  # called by kombu, which serialises the arguments of Celery's tasks
        raise TypeError(f"a Token is not serialised: {_INSTEAD}")


# The standard library's json calls no method of a value that it cannot serialise, but its error quotes this name.
Token.__name__ = f"Token ({_INSTEAD})"
