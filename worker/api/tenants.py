"""Which tenant a caller means."""

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

# The first sync of another tenant is seen after this long.
FRESH_SECONDS = 5.0
# Postgres is not asked again sooner: else those who wait for an answer would each ask, one after the other.
RETRY_SECONDS = 2.0


@dataclass(slots=True)
class Tenants:
    """The tenants that callers may name.

    A process that serves the API alone has no ``AUTH0_*``, by which the workers may know a tenant more: then the vault
    says of which it holds anything. To guess would read the token of another tenant's user with the same id.

    Args:
        configured: those of the settings.
        database: of the vault.
        clock: monotonic seconds.
    """

    configured: Sequence[str]
    database: Database
    clock: Callable[[], float] = time.monotonic
    _found: Sequence[str] | None = None
    _due_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def known(self) -> Sequence[str]:
        """Return all of them.

        Those that were known last, while the vault cannot be asked.

        Raises:
            TemporarilyUnavailable: it could not be asked yet.
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
        """Return the only tenant, if there is one."""
        known = await self.known()
        return known[0] if len(known) == 1 else None

    async def choose(self, consumer: ConsumerRules, wanted: str | None) -> str | None:
        """Return the tenant that a consumer means.

        Args:
            wanted: which it names. A name of none may not reach a reader, as each tenant has one of its own.

        Raises:
            ApiProblem: it may not have this tenant, there is none, or nobody can tell which.
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
