"""The consumers, kept in the API's memory for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from token_vault.errors import TemporarilyUnavailable, VaultError
from worker.consumer_rules import ConsumerRules
from worker.vault.consumers.consumers import load_consumers
from worker.vault.db.errors import explained
from worker.vault.vault import Database

log = structlog.get_logger(__name__)

# For so long a consumer that the operator has removed can still read.
FRESH_SECONDS = 5.0
# For so long the consumers read last are used while Postgres does not answer.
MAX_STALE_SECONDS = 60.0
RETRY_SECONDS = 2.0


class Consumers:
    """The consumers, read again every few seconds.

    Args:
        database: the vault's.
        clock: monotonic seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: tuple[ConsumerRules, ...] = ()
        self._by_client_id: dict[str, ConsumerRules] = {}
        self._loaded_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the table, unless it was read some seconds ago.

        Raises:
            TemporarilyUnavailable: what was read last is too old, and Postgres does not answer.
        """
        if self._is_due() or (self._lock.locked() and self._is_stale()):
            async with self._lock:  # one query, however many wait for it
                if self._is_due():
                    await self._read()
        if self._is_stale():
            raise TemporarilyUnavailable("the table of consumers cannot be read now", RETRY_SECONDS)

    @property
    def client_ids(self) -> Collection[str]:
        """Client ids of the applications that are consumers."""
        return self._by_client_id.keys()

    def of_client(self, client_id: str) -> ConsumerRules | None:
        """Return the consumer of an application."""
        return self._by_client_id.get(client_id)

    def of_api_key(self, key: str) -> ConsumerRules | None:
        """Return the consumer of an API key.

        It compares the key with all consumers' keys, each in constant time.
        """
        found = None
        for consumer in self._known:
            if consumer.has_api_key(key):
                found = consumer
        return found

    def _is_stale(self) -> bool:
        return self._clock() - self._loaded_at > MAX_STALE_SECONDS

    def _is_due(self) -> bool:
        now = self._clock()
        return now - self._loaded_at > FRESH_SECONDS and now - self._tried_at > RETRY_SECONDS

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            async with explained():
                known = await load_consumers(self._database)
        except VaultError as error:
            log.warning("consumers.load_failed", error=str(error))
            return
        self._known = tuple(known)
        self._by_client_id = {each.client_id: each for each in known if each.client_id}
        self._loaded_at = self._tried_at
