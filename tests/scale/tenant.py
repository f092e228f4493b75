"""A tenant of real size that changes by itself."""

from __future__ import annotations

from typing import Any

import psycopg
import redis

from emulators.client import Emulation, digest
from tests.support.database import empty_tables
from tests.support.keys import ACCESS_KEY
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


def prepare(servers: embedded.Servers, tenant: Emulation, plan: str, users: int, *, speed: float) -> None:
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
    tenant.set_speed(speed)
    tenant.reset_calls()


def count_mistakes(servers: embedded.Servers, tenant: Emulation) -> int:
    """Count identities that are missing, superfluous, or with other tokens."""
    ring = KeyRing("access", [ACCESS_KEY])
    shown = {
        (user["user_id"], identity["connection"], str(identity["provider_user_id"])): identity["shown_access"]
        for user in tenant.alive()
        for identity in user["identities"]
    }
    mistakes = 0
    with psycopg.connect(servers.database_url.reveal()) as connection:
        rows = connection.execute(
            "SELECT user_id, connection, provider_user_id, access_version, expires_at, access_ciphertext"
            " FROM grants WHERE user_id <> '' AND state <> 'erased'"
        )
        for user, name, subject, version, end, sealed in rows:
            place = EncryptionContext.of_access_token(GrantKey("default", name, user, subject), version, end)
            held = digest(ring.decrypt(place, bytes(sealed)).reveal())
            mistakes += shown.pop((user, name, subject), None) != held
    return mistakes + len(shown)
