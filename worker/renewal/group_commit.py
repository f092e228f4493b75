"""Commits together the answers that are there together.

Nobody waits for a group to fill: the next statement takes whatever has come while the last one was under way.
"""

from __future__ import annotations

import asyncio

import structlog

from worker.vault import claims
from worker.vault.claims import ObtainedPair
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# One statement holds its rows' locks until it is committed, and that is some milliseconds for so many.
MAX_GROUP = 32

_Waiting = list[tuple[ObtainedPair, "asyncio.Future[bool]"]]


class GroupCommit:
    """Stores answers in one vault, a group at a time.

    Args:
        vault: where they go.

    Attributes:
        connection: commits the groups.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.connection = KeptConnection(vault)
        self._waiting: _Waiting = []
        self._committing: asyncio.Task[None] | None = None

    async def store(self, obtained: ObtainedPair) -> bool:
        """Commit a pair; returns and raises as ``store_pair``.

        What its group does not store is committed by itself, so that no answer suffers from another one's trouble.
        """
        is_stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((obtained, is_stored))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())
        return await is_stored or await claims.store_pair(
            self._vault,
            obtained.claim,
            obtained.pair,
            obtained_at=obtained.obtained_at,
            due_at=obtained.due_at,
            is_failing=obtained.is_failing,
        )

    async def _commit_waiting(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            await self._commit(group)

    async def _commit(self, group: _Waiting) -> None:
        stored: set[int] = set()
        try:
            stored = await claims.store_pairs(
                self._vault, [obtained for obtained, _ in group], connection=self.connection
            )
        except Exception as error:
            # Each of them meets the same trouble by itself, and is spooled, or proves that it is another one's.
            log.warning("answers.commit_failed", answers=len(group), error=type(error).__name__)
        finally:
            for n, (_, is_stored) in enumerate(group):
                if not is_stored.done():
                    is_stored.set_result(n in stored)
