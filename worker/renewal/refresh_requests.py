"""Handles refresh requests, on wakeups and by polling."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from structlog.contextvars import bind_contextvars

from token_vault.errors import TokenNotFound, VaultError
from worker import traces
from worker.renewal.on_demand import OnDemand, Refreshed
from worker.vault.refresh_requests import queue
from worker.vault.refresh_requests.queue import RefreshRequest
from worker.vault.refresh_requests.security_events import SECURITY_EVENTS
from worker.vault.vault import Vault
from worker.vault.wakeups import DATABASE_FAILURES, WakeupLoop

log = structlog.get_logger(__name__)

# Requests that one process handles at a time: fewer than its connections to Postgres.
MAX_REFRESHES = 16


class RefreshRequests(WakeupLoop):
    """Claims refresh requests and handles them.

    Any number of processes may do so.

    Args:
        vault: holds the requests.
        on_demand: refreshes a grant.
        tenants: the tenants whose grants are refreshed.
    """

    def __init__(self, vault: Vault, on_demand: OnDemand, tenants: Sequence[str]) -> None:
        super().__init__(vault, queue.CHANNEL)
        self._on_demand = on_demand
        self._tenants = tenants

    async def _claim(self) -> None:
        capacity = MAX_REFRESHES - len(self._running)
        if capacity > 0:
            for request in await queue.claim(self._vault, self._tenants, limit=capacity):
                self._begin(self._handle(request))

    async def _clean_up(self) -> None:
        await queue.delete_over(self._vault)

    async def _handle(self, request: RefreshRequest) -> None:
        if request.request_id is not None:  # in this asyncio task, and in those that it starts
            bind_contextvars(request_id=request.request_id)
        with traces.span(
            "refresh_request", "consumer", traceparent=request.traceparent, grant=request.grant_id
        ) as span:
            if request.request_id is not None:
                span.set(request_id=request.request_id)
            await self._try(request)

    async def _try(self, request: RefreshRequest) -> None:
        log.debug("refresh_request.claimed", grant=request.grant_id)
        try:
            refreshed = await self._refresh(request)
            await queue.finish(self._vault, request)
            if refreshed is not None:
                log.info("refresh_request.finished", grant=request.grant_id, connection=refreshed.connection,
                         outcome=refreshed.outcome.value)  # fmt: skip
        except (VaultError, *DATABASE_FAILURES) as error:
            # Its claim expires, and the request is tried again.
            log.warning("refresh_request.failed", grant=request.grant_id, error=type(error).__name__)

    async def _refresh(self, request: RefreshRequest) -> Refreshed | None:
        try:
            return await self._on_demand.refresh_grant(
                request.grant_id,
                min_ttl=request.min_ttl or None,
                rejected_version=request.rejected_version,
                target=request.target,
                is_read=request.requested_by != SECURITY_EVENTS,
            )
        except TokenNotFound:  # erased meanwhile
            return None
