"""Routes for liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from token_vault.database_errors import NOT_MIGRATED
from token_vault.errors import ConfigurationError, TemporarilyUnavailable, VaultError
from worker.api.problems import NO_STORE, of_error, problem_response, unavailable
from worker.api.service import Service, service_of
from worker.metrics.exporter import CONTENT_TYPE
from worker.vault.db.revisions import revisions

# The result is kept for so long, as many load balancers may probe at once.
READY_SECONDS = 2.0
CHECK_SECONDS = 5.0


async def healthz(request: Request) -> Response:
    """Answer that this process is alive."""
    del request
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


async def metrics(request: Request) -> Response:
    """Answer with the metrics."""
    service = service_of(request)
    await service.metrics.vault.refresh(service.database, tuple(service.settings.tenants))
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)


@dataclass(slots=True)
class Readiness:
    """Checks whether the API can serve; keeps the result briefly."""

    _error: VaultError | None = None
    _checked_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, request: Request) -> Response:
        """Answer whether database, keys and migrations are in order."""
        async with self._lock:
            if time.monotonic() - self._checked_at > READY_SECONDS:
                self._error = await _failure(service_of(request))
                self._checked_at = time.monotonic()
        if self._error is None:
            return JSONResponse({"status": "ready"}, headers=NO_STORE)
        request_id = request.scope.get("request_id")
        if isinstance(self._error, TemporarilyUnavailable):
            return problem_response(of_error(self._error), request_id)
        # Anybody may read this: the message names settings, never values.
        return problem_response(unavailable(str(self._error), READY_SECONDS), request_id)


async def _failure(service: Service) -> VaultError | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await _check(service)
    except VaultError as error:
        error.server = None  # anybody may ask whether the API is ready
        return error
    except TimeoutError:
        return TemporarilyUnavailable("Postgres does not answer in time", READY_SECONDS)
    return None


async def _check(service: Service) -> None:
    """Check database, keys and migrations.

    Raises:
        ConfigurationError: a key is wrong, or migrations are missing.
        TemporarilyUnavailable: Postgres does not answer.
    """
    await service.database.check_access_keys(service.settings.access_keys)
    current, head = await asyncio.to_thread(revisions, service.database_url)
    if current != head:
        raise ConfigurationError(NOT_MIGRATED)
