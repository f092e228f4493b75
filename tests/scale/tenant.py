"""A tenant of real size that changes by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import redis
from psycopg.rows import dict_row

from emulators.client import Emulation, digest
from tests.support.database import empty_tables
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from worker import embedded

LIST = "GET /api/v2/users"
SCOPES = [
    "read:users", "read:user_idp_tokens", "read:connections", "read:connections_options", "read:logs",
]  # fmt: skip
CONNECTIONS = ("google-oauth2", "bitbucket", "windowslive")
ACTIVITY: dict[str, Any] = {"logins": 40, "creations": 6, "links": 1, "unlinks": 0.5, "deletions": 3}


def prepare(servers: embedded.Servers, tenant: Emulation, plan: str, users: int) -> None:
    """Empty the vault, and fill the tenant with users."""
    empty_tables(servers.database_url)
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        broker.flushall()
    tenant.reset()
    tenant.set_scopes(SCOPES)
    for name in CONNECTIONS:
        tenant.add_connection(name, name, {"google-oauth2": "google", "windowslive": "entra"}.get(name, name))
    tenant.seed_users(users, list(CONNECTIONS), linked=0.02, cluster=250)
    tenant.write_log("fapi")
    tenant.set_search_lag(5)
    tenant.set_plan(plan)
    tenant.reset_calls()


def find_mistakes(servers: embedded.Servers, tenant: Emulation) -> list[str]:
    """Find identities that are missing, superfluous, or with other tokens."""
    shown = {
        (user["user_id"], identity["connection"], str(identity["provider_user_id"])): identity
        for user in tenant.alive()
        for identity in user["identities"]
    }
    mistakes = []
    with psycopg.connect(servers.database_url.reveal(), row_factory=dict_row) as connection:
        for row in connection.execute("SELECT * FROM grants WHERE user_id <> '' AND state <> 'erased'"):
            identity = shown.pop((row["user_id"], row["connection"], row["provider_user_id"]), None)
            if identity is None:
                mistakes.append(f"superfluous: {row['user_id']} at {row['connection']}")
            elif not is_held(*_digests(row), identity, partial(_living, tenant, row)):
                mistakes.append(f"other tokens: {row['user_id']}, {_digests(row)} for {identity}")
    return mistakes + [f"missing: {identity}" for identity in shown]


def is_held(
    access: str | None, refresh: str | None, identity: dict[str, Any], living: Callable[[], set[str]]
) -> bool:
    """Tell whether a row has the two tokens that Auth0 shows.

    Where Auth0 shows no refresh token, as after a login without consent, the row keeps the last one that it has seen,
    which still lives: one that came and was hidden between two syncs nobody could see.
    """
    if access != identity["shown_access"]:
        return False
    if identity["shown_refresh"] is not None:
        return bool(refresh == identity["shown_refresh"])
    return refresh is None or refresh in living()


def _living(tenant: Emulation, row: dict[str, Any]) -> set[str]:
    """List the refresh tokens of an identity that the provider takes."""
    return {pair["refresh"] for pair in tenant.ledger(row["user_id"], row["connection"]) if pair["live"]}


_ACCESS, _REFRESH = KeyRing("access", [ACCESS_KEY]), KeyRing("refresh", [REFRESH_KEY])


def _digests(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Name a row's tokens as the ledger does."""
    key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
    access, refresh = row["access_ciphertext"], row["refresh_ciphertext"]
    at = EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])
    of = EncryptionContext.of_grant(key, "refresh", row["refresh_version"])
    return (
        None if access is None else digest(_ACCESS.decrypt(at, access).reveal()),
        None if refresh is None else digest(_REFRESH.decrypt(of, refresh).reveal()),
    )
