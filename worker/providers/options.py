"""Reads admin tokens and warnings from a connection's options.

https://auth0.com/docs/api/management/v2/connections/get-connections — ``options`` is an open object, so each
value may be missing or of another type than documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from worker.providers import answer
from worker.token_pair import TokenPair

TOKEN_FIELDS = frozenset(
    {
        *("admin_access_token", "admin_refresh_token", "admin_access_token_expiresin", "admin_id_token"),
        *("admin_expires_in", "admin_expires_at"),
        *("access_token", "refresh_token", "id_token", "access_token_secret", "expires_in", "expires_at"),
    }
)
"""Options that contain a token, or the end of one."""


def admin_tokens(strategy: str, options: Mapping[str, Any] | None, *, now: datetime) -> TokenPair | None:
    """Return an enterprise connection's admin tokens, or None.

    A life in seconds does not say when the token ends, as the time of its issue is unknown: then the expiry is unknown.

    Args:
        now: with a time zone; an end too far from it is not an expiry.
    """
    options = options or {}
    # Only waad has names without a prefix: elsewhere these might be anyone's tokens.
    prefixes = ("admin_", "") if strategy == "waad" else ("admin_",)
    for prefix in prefixes:
        access = answer.secret(options.get(f"{prefix}access_token"))
        refresh = answer.secret(options.get(f"{prefix}refresh_token"))
        if access or refresh:
            ends = (
                answer.moment(options.get(f"{prefix}{name}"), now)
                for name in ("access_token_expiresin", "expires_at", "expires_in")
            )
            return TokenPair(access, refresh, expires_at=next((end for end in ends if end), None))
    return None


def public_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options without token fields, at any depth.

    Tokens are left out because they are stored in grants. The client secret is not, so the options must be encrypted.
    """
    return {
        name: public_options(value) if isinstance(value, Mapping) else value
        for name, value in (options or {}).items()
        if name not in TOKEN_FIELDS
    }


def notes(options: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return warnings about a connection for the operator."""
    found = []
    if _is_active(options, "federated_connections_access_tokens"):
        found.append(
            "Auth0's own Token Vault is switched on for this connection (federated_connections_access_tokens): "
            "Auth0 may then keep its tokens from the users' identities, and they cannot be pulled"
        )
    return tuple(found)


def _is_active(options: Mapping[str, Any] | None, name: str) -> bool:
    switch = (options or {}).get(name)
    return isinstance(switch, Mapping) and switch.get("active") is True
