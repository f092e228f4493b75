"""The tenants that callers may name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from token_vault.errors import TemporarilyUnavailable, VaultError
from worker.api.problems import ApiProblem
from worker.consumer_rules import ConsumerRules
from worker.settings.file import DEFAULT_TENANT
from worker.vault.db.errors import explained
from worker.vault.grants import queries
from worker.vault.vault import Database

log = structlog.get_logger(__name__)

# For so long the first sync of a further tenant may go unnoticed.
FRESH_SECONDS = 5.0
# Between two tries while Postgres fails: otherwise all waiting requests would try, one after the other.
RETRY_SECONDS = 2.0


@dataclass(slots=True)
class Tenants:
    """The tenants that callers may name.

    The workers may know one tenant more than an API process, which needs no ``AUTH0_*``. Then the tenants that have
    grants in the vault are added. With a guess, a caller could get the token of another tenant's user with the same id.

    Args:
        configured: names of the tenants in the settings.
        database: the vault's.
        clock: monotonic seconds.
    """

    configured: Sequence[str]
    database: Database
    clock: Callable[[], float] = time.monotonic
    _found: Sequence[str] | None = None
    _due_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def known(self) -> Sequence[str]:
        """Return the names of all tenants.

        While Postgres does not answer, those that were read last.

        Raises:
            TemporarilyUnavailable: they could not be read yet.
        """
        if DEFAULT_TENANT in self.configured:
            return self.configured
        async with self._lock:  # one query, however many wait for it
            if self.clock() >= self._due_at:
                await self._read()
        if self._found is None:
            raise TemporarilyUnavailable("the vault's tenants cannot be read now", RETRY_SECONDS)
        return self._found

    async def _read(self) -> None:
        try:
            async with explained():
                found = await queries.list_tenants(self.database)
        except VaultError as error:
            log.warning("tenants.load_failed", error=str(error))
            self._due_at = self.clock() + RETRY_SECONDS
            return
        self._found = sorted({*self.configured, *found})
        self._due_at = self.clock() + FRESH_SECONDS

    async def only(self) -> str | None:
        """Return the only tenant (None if there are several)."""
        known = await self.known()
        return known[0] if len(known) == 1 else None

    async def choose(self, consumer: ConsumerRules, wanted: str | None) -> str | None:
        """Return the tenant that a consumer means.

        Args:
            consumer: who calls.
            wanted: the tenant that it names, if any. An unknown name is refused here, as a reader would be opened and
                kept for each name.

        Raises:
            ApiProblem: the consumer may not read this tenant, there is no such tenant, or it has to name one.
        """
        allowed = consumer.tenants or await self.known()
        if wanted is not None:
            if wanted in allowed:
                return wanted
            if consumer.tenants is not None:
                raise ApiProblem(
                    "not-allowed", f"the entry [consumers.{consumer.name}] does not allow this tenant"
                )
            raise ApiProblem("bad-request", "no tenant has this name")
        if len(allowed) > 1:
            raise ApiProblem("bad-request", f"name the tenant by tenant: {', '.join(allowed)}")
        return allowed[0] if allowed else None
