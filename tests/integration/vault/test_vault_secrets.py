"""The vault's own secrets are made once, in an empty vault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from emulators.client import Emulation
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from token_vault.errors import ConfigurationError
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.runtime import Runtime
from worker.vault.vault import open_vault

Sql = Callable[..., list[dict[str, Any]]]

# What a restore may leave out.
PARTIAL_RESTORES = {
    "no fingerprint key": "DELETE FROM vault_secrets WHERE name = 'fingerprint_key'",
    "no check of the access ring": "DELETE FROM vault_secrets WHERE name = 'access_ring_check'",
    "no secrets": "DELETE FROM vault_secrets",
    "no secrets and no grants": "DELETE FROM grants; DELETE FROM vault_secrets",
    "no secrets and no options": "UPDATE connections SET options_ciphertext = NULL; DELETE FROM vault_secrets",
    "no secrets and no tokens": (
        "ALTER TABLE grants DISABLE TRIGGER USER; UPDATE grants SET access_ciphertext = NULL, refresh_ciphertext = NULL;"
        " ALTER TABLE grants ENABLE TRIGGER USER; DELETE FROM vault_secrets"
    ),
    "no secrets and no location": "DELETE FROM vault_location; DELETE FROM vault_secrets",
}
CONTENT = (
    "SELECT (SELECT json_agg(s ORDER BY s.name) FROM vault_secrets s)::text AS secrets,"
    " (SELECT json_agg(g ORDER BY g.id) FROM grants g)::text AS grants,"
    " (SELECT json_agg(l) FROM vault_location l)::text AS location"
)


@pytest.mark.parametrize("statements", PARTIAL_RESTORES.values(), ids=PARTIAL_RESTORES)
@pytest.mark.parametrize("keys", ["right", "wrong"])
async def test_a_partial_restore_is_refused(
    tenant: Emulation,
    open_worker: Callable[[], Awaitable[Runtime]],
    database_url: Secret,
    sql: Sql,
    statements: str,
    keys: str,
) -> None:
    """A vault that holds anything gets no new secrets, whatever is missing; nothing in it changes."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_users("google-oauth2", 1)
    runtime = await open_worker()
    assert (await (await runtime.tenant_sync("default")).sync_all()).ok
    for statement in statements.split(";"):
        sql(statement)
    before = sql(CONTENT)
    rings = [ACCESS_KEY, REFRESH_KEY] if keys == "right" else [KeyRing.generate(), KeyRing.generate()]
    with pytest.raises(ConfigurationError, match=r"lacks .*Restore vault_secrets from the same backup"):
        async with open_vault(database_url, rings[:1], rings[1:]):
            pass
    assert sql(CONTENT) == before


async def test_processes_that_open_a_new_vault_at_once_agree(database_url: Secret, sql: Sql) -> None:
    """One of them makes the secrets; all have the same."""

    async def fingerprint() -> bytes:
        async with open_vault(database_url, [ACCESS_KEY], [REFRESH_KEY], connections=1) as vault:
            return vault.fingerprints.of_secret(Secret("token"))

    assert len(set(await asyncio.gather(*(fingerprint() for _ in range(20))))) == 1
    assert len(sql("SELECT name FROM vault_secrets")) == 2
    assert len(sql("SELECT is_only FROM vault_location")) == 1
