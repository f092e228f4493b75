"""Fresh OAuth tokens from a token vault in Postgres.

from token_vault import TokenVault
vault = TokenVault.from_env()  # DATABASE_URL and VAULT_ACCESS_KEYS
token = vault.user_token("google-oauth2|1111", connection="google-oauth2", min_ttl=60, wait=5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from token_vault.errors import (
    AccessDenied,
    AmbiguousAccount,
    ConfigurationError,
    MissingScopes,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    TokenNotFound,
    VaultError,
)
from token_vault.token import Token

if TYPE_CHECKING:
    from token_vault.client import AsyncTokenVault, TokenVault

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AmbiguousAccount",
    "AsyncTokenVault",
    "ConfigurationError",
    "MissingScopes",
    "ReauthorizationRequired",
    "TemporarilyUnavailable",
    "Token",
    "TokenExpired",
    "TokenNotFound",
    "TokenVault",
    "VaultError",
]


def __getattr__(name: str) -> object:
    """Import the readers on demand.

    The errors alone need no Postgres driver.
    """
    if name in ("AsyncTokenVault", "TokenVault"):
        from token_vault import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
