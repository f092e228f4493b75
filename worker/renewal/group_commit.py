"""Commits answers that arrive together in one statement.

No answer waits for a group to fill: each statement takes the answers that arrived while the last one was under way.
"""

from __future__ import annotations

import asyncio

import structlog

from worker.vault import claims
from worker.vault.claims import ObtainedPair
from worker.vault.kept_connection import KeptConnection
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Answers in one statement. It locks its rows until it is committed: for this many, some milliseconds.
MAX_GROUP = 32

_Waiting = list[tuple[ObtainedPair, "asyncio.Future[bool]"]]


class GroupCommit:
    """Stores answers in one vault, a group at a time.

    Attributes:
        connection: the connection that commits the groups.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.connection = KeptConnection(vault)
        self._waiting: _Waiting = []
        self._committing: asyncio.Task[None] | None = None

    async def store(self, obtained: ObtainedPair) -> bool:
        """Commit a pair; returns and raises as ``store_pair``.

        A pair that its group did not store is committed alone, so that no answer fails because of another.
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
            # Each answer is then committed alone: it fails and is spooled, or succeeds if another caused the error.
            log.warning("answers.commit_failed", answers=len(group), error=type(error).__name__)
        finally:
            for position, (_, is_stored) in enumerate(group):
                if not is_stored.done():
                    is_stored.set_result(position in stored)
