"""Checks that the vault knows the names in an order.

A mistyped one would match nothing, and nothing done looks like all done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from token_vault.errors import ConfigurationError, TokenNotFound

if TYPE_CHECKING:
    from worker.vault.connections.connection import StoredConnection
    from worker.vault.vault import Vault


async def find_connections(vault: Vault, tenants: Sequence[str], name: str) -> list[StoredConnection]:
    """Return the connections of a name.

    Raises:
        ConfigurationError: the vault knows none.
    """
    from worker.vault.connections.connection import load_connections

    found = await load_connections(vault, tenants, name)
    if not found:
        raise ConfigurationError(
            f"no connection is called {name}: `token-vault status` names those that are known"
        )
    return list(found)


async def check_user(vault: Vault, tenants: Sequence[str], user_id: str) -> None:
    """Check that a user has a grant, whatever its state.

    Raises:
        TokenNotFound: the vault has none.
    """
    from worker.vault.grants.queries import GrantFilter, count_grants

    if not await count_grants(vault, tenants, GrantFilter(user_id=user_id)):
        raise TokenNotFound(f"the vault has no grant of user {user_id}")
