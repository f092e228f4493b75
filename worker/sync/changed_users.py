"""Syncs the users whom hooks name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from token_vault.errors import VaultError
from worker.vault.changed_users import queue
from worker.vault.changed_users.queue import ChangedUser
from worker.vault.vault import Vault
from worker.vault.wakeups import DATABASE_FAILURES, WakeupLoop

log = structlog.get_logger(__name__)

# Users synced together. A full batch means a flood of hooks, so its calls take no precedence in Auth0's rate limit.
MAX_BATCH_USERS = 20
# The pause after a failure that does not say when to try again.
RETRY_SECONDS = 15.0

SyncUsers = Callable[[str, list[str], bool], Awaitable[None]]
"""Syncs users of a tenant by id, with or without precedence."""


class ChangedUsers(WakeupLoop):
    """Claims changed users and syncs them in batches.

    A tenant has one batch at a time, so its other users wait in the database and not in memory. Tenants do not wait for
    each other.

    Args:
        vault: holds the queue.
        sync: syncs a batch.
        tenants: the tenants whose users are synced.
    """

    def __init__(self, vault: Vault, sync: SyncUsers, tenants: Sequence[str]) -> None:
        super().__init__(vault, queue.CHANNEL)
        self._sync = sync
        self._tenants = tenants
        self._busy: set[str] = set()

    async def _claim(self) -> None:
        for tenant in self._tenants:
            if tenant in self._busy:
                continue
            if users := await queue.claim(self._vault, tenant, limit=MAX_BATCH_USERS):
                self._busy.add(tenant)
                self._begin(self._sync_batch(tenant, users))

    async def _clean_up(self) -> None:
        await queue.delete_over(self._vault)

    async def _sync_batch(self, tenant: str, users: list[ChangedUser]) -> None:
        try:
            await self._sync(tenant, [user.user_id for user in users], len(users) < MAX_BATCH_USERS)
            await queue.finish(self._vault, tenant, users)
        except VaultError as error:
            log.warning("changed_users.postponed", tenant=tenant, users=len(users), error=str(error))
            await self._postpone(tenant, users, getattr(error, "retry_after", None) or RETRY_SECONDS)
        except DATABASE_FAILURES as error:  # the claim expires
            log.warning("changed_users.failed", tenant=tenant, error=type(error).__name__)
        finally:
            self._busy.discard(tenant)

    async def _postpone(self, tenant: str, users: list[ChangedUser], seconds: float) -> None:
        with suppress(*DATABASE_FAILURES):  # the claim expires
            await queue.postpone(self._vault, tenant, users, seconds=seconds)
