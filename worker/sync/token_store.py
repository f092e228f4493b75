"""Shares a tenant's management token through the vault."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from worker.auth0 import Credentials, ManagementToken
from worker.vault import management_token
from worker.vault.leases import lease
from worker.vault.vault import Vault


class VaultTokenStore:
    """The ``TokenStore`` of one tenant.

    A token minted with other credentials is not used.

    Args:
        vault: stores the token, encrypted.
        tenant: the tenant's name.
        credentials: with which it is minted.
    """

    def __init__(self, vault: Vault, tenant: str, credentials: Credentials) -> None:
        self._vault = vault
        self._tenant = tenant
        self._minted_with = vault.fingerprints.of(
            credentials.base_url, credentials.client_id, credentials.client_secret, credentials.private_key,
            credentials.audience,
        )  # fmt: skip

    async def get(self) -> ManagementToken | None:
        """Return the shared token, even if it has expired."""
        found = await management_token.load(self._vault, self._tenant, self._minted_with)
        return None if found is None else ManagementToken(*found)

    def minting(self) -> AbstractAsyncContextManager[None]:
        """Hold the lease under which one process mints."""
        return lease(self._vault, f"management token of {self._tenant}")

    async def put(self, token: ManagementToken) -> None:
        """Share a new token."""
        await management_token.store(
            self._vault,
            self._tenant,
            self._minted_with,
            token=token.value,
            expires_at=token.expires_at,
            scopes=token.scopes,
        )
