"""Queries of the vault, for commands that change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from worker.cli import environment

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.vault.vault import Vault

T = TypeVar("T")


def query_vault(
    look: Callable[[Vault, Sequence[str]], Awaitable[T]], tenant: str | None
) -> tuple[T, Sequence[str], datetime]:
    """Open the vault, run one query, and close it.

    Returns what the query found, the tenants that it was about, and the time.
    """
    environment.configure_log()
    with environment.running_vault() as settings:
        return asyncio.run(_look(settings, look, tenant))


async def _look(
    settings: Settings, look: Callable[[Vault, Sequence[str]], Awaitable[T]], tenant: str | None
) -> tuple[T, Sequence[str], datetime]:
    from worker.vault.grants import queries
    from worker.vault.vault import open_vault

    keys = (settings.access_keys, settings.refresh_keys)
    async with open_vault(environment.database_url(settings), *keys, connections=1) as vault:
        # The vault can be queried without a configured tenant too, e.g. on a dashboard's host.
        tenants = (
            environment.select_tenants(settings, tenant)
            if settings.tenants
            else await queries.list_tenants(vault, tenant)
        )
        return await look(vault, tenants), tenants, datetime.now(UTC)
