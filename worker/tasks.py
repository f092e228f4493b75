"""The Celery tasks. Arguments and results hold ids, states and times only; each is safe to run twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from celery import Task, shared_task
from celery.signals import worker_process_shutdown, worker_shutdown
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.errors import TemporarilyUnavailable, TokenNotFound, VaultError
from worker.auth0.errors import Auth0NotFound, Auth0RateLimited, Auth0Unreachable
from worker.process import Process
from worker.renewal.on_demand import Refreshed
from worker.runtime import Runtime
from worker.sync.report import SyncReport
from worker.sync.tenant_sync import TenantSync
from worker.vault import outbox
from worker.vault.db.database import explain
from worker.vault.sync_state import runs

log = structlog.get_logger(__name__)

# How often a sync is tried again when Auth0 cannot be reached or its limit is spent.
RETRIES = 5
RETRY_AFTER = 15.0

# Messages expire by the clock of the host that takes them: hosts whose clocks are five minutes apart, one ahead and
# one behind, must not drop what is sent between them.
CLOCK_SKEW_SECONDS = 600.0

# A walk through all users is cut into tasks of so many seconds.
SLICE = 45.0
# A full sync that failed is tried again after so many seconds, twice as many after each further failure, up to a bound.
TRY_AGAIN, LONGEST_WAIT = 60.0, 600.0

# What passes by itself, sooner or later.
_MAY_PASS = (Auth0RateLimited, Auth0Unreachable, TemporarilyUnavailable)

T = TypeVar("T")


_process = Process()


@worker_shutdown.connect
@worker_process_shutdown.connect
def _close(**_: object) -> None:
    _process.close()


@shared_task(name="worker.renew_due", ignore_result=True)
def renew_due() -> None:
    """Look for due grants and renew them. Finding nothing is the normal case."""
    runtime = _process.runtime()
    try:
        outcomes = _process.run(lambda: runtime.engine.renew_due(runtime.tenants))
    except TemporarilyUnavailable as error:
        log.warning("renewal.postponed", error=str(error))  # the next tick looks again
        return
    if outcomes:
        log.info("renewal.finished", **{outcome.value: count for outcome, count in outcomes.items()})


@shared_task(name="worker.deliver_events", ignore_result=True)
def deliver_events() -> None:
    """Look for events that wait for delivery, and deliver them. Finding nothing is the normal case."""
    runtime = _process.runtime()
    try:
        counts = _process.run(lambda: runtime.deliverer.deliver_due(runtime.tenants))
    except TemporarilyUnavailable as error:
        log.warning("delivery.postponed", error=str(error))  # the next tick looks again
        return
    if counts:
        log.info("delivery.finished", **counts)


@shared_task(name="worker.refresh_token")
def refresh_token(
    user_id: str | None = None,
    connection: str | None = None,
    admin_connection: str | None = None,
    min_ttl: float | None = None,
    force: bool = False,
    tenant: str | None = None,
) -> dict[str, Any]:
    """Make sure that one grant's token is fresh.

    Args:
        user_id: Auth0's user id; with ``connection``.
        connection: the connection's name.
        admin_connection: instead of both, the connection whose admin token is meant.
        min_ttl: seconds of life wanted.
        force: renew even a fresh token.
        tenant: the tenant's name, where several are configured.

    Returns:
        ``state`` (``not_found`` among them), ``renewed``, ``expires_at``, ``reason``, ``since``, ``retry_after``.
    """
    _check(
        user_id=user_id or "",
        connection=connection or "",
        admin_connection=admin_connection or "",
        tenant=tenant or "",
    )
    # An empty user id would name the admin grant: it is refused like a missing one.
    if bool(admin_connection) == bool(user_id and connection) or (
        admin_connection and (user_id or connection)
    ):
        raise ValueError("give user_id and connection, or admin_connection alone")
    if min_ttl is not None and (isinstance(min_ttl, bool) or not isinstance(min_ttl, int | float)):
        raise ValueError("min_ttl is a number of seconds")
    if force not in (True, False):
        raise ValueError("force is true or false")
    runtime = _process.runtime()
    wanted_user, wanted_connection = (user_id or "", connection or admin_connection or "")
    try:
        refreshed = _process.run(
            lambda: runtime.on_demand.refresh(
                tenants=[tenant] if tenant else runtime.tenants,
                user_id=wanted_user,
                connection=wanted_connection,
                min_ttl=min_ttl,
                force=force,
            )
        )
    except TokenNotFound:
        return {
            "state": "not_found",
            "renewed": False,
            "user_id": wanted_user,
            "connection": wanted_connection,
        }
    return _plain(refreshed)


@shared_task(name="worker.sync_all", bind=True, max_retries=RETRIES)
def sync_all(self: Task, full: bool = False) -> list[dict[str, Any]]:
    """Bring every tenant's connections and users up to date; one tenant's failure does not stop another.

    Args:
        full: walk through all users, instead of asking for those who changed.
    """
    if full not in (True, False):
        raise ValueError("full is true or false")
    reports, postponed = [], None
    for tenant in _process.runtime().tenants:
        try:
            reports.append(_run_sync(tenant, lambda sync: sync.catch_up(full=full)))
        except VaultError as error:
            reports.append(_failed(tenant, error))
            postponed = error if isinstance(error, _MAY_PASS) else postponed
    if postponed:
        _retry(self, postponed)
    return reports


@shared_task(name="worker.sync_due", ignore_result=True, bind=True)
def sync_due(self: Task) -> None:
    """Go on with walks through all users, and begin those that are due, as the connections are."""
    runtime = _process.runtime()
    while any(_process.run(lambda: _each_tenant(runtime, _catch_up_if_due))):
        try:  # at once, in a new message: a task that takes hours could not be stopped
            self.apply_async(expires=SLICE + CLOCK_SKEW_SECONDS)
        except OperationalError as error:  # Redis is away, and nothing that a walk needs is
            log.warning("sync.not_handed_on", error=type(error).__name__)
            continue
        return


@shared_task(name="worker.sync_changes", ignore_result=True)
def sync_changes() -> None:
    """Take what has changed at each tenant since the last time, and erase what is gone for good."""
    runtime = _process.runtime()
    _process.run(lambda: _each_tenant(runtime, _take_changes))


@shared_task(name="worker.sync_user", bind=True, max_retries=RETRIES)
def sync_user(self: Task, user_id: str, tenant: str | None = None) -> dict[str, Any]:
    """Sync one user: every identity with its tokens, as Auth0 has them now."""
    _check(user_id=user_id)
    return _sync(self, _tenant(tenant), lambda sync: sync.sync_user(user_id), urgent=True)


@shared_task(name="worker.sync_connection", bind=True, max_retries=RETRIES)
def sync_connection(self: Task, connection: str, tenant: str | None = None) -> dict[str, Any]:
    """Sync one connection and the users who have an identity of it."""
    _check(connection=connection)
    return _sync(self, _tenant(tenant), lambda sync: sync.sync_connection(connection))


def _check(**names: object) -> None:
    """Refuse what can be no name; Postgres or Auth0 would be blamed for it, and asked again and again."""
    for argument, value in names.items():
        if not _is_name(value):
            raise ValueError(f"{argument} is no name")


def _is_name(value: object) -> bool:
    # JSON can hold half a surrogate pair, and both of these; Postgres cannot.
    return isinstance(value, str) and not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in value)


def _tenant(name: str | None) -> str:
    tenants = _process.runtime().tenants
    if name is None and len(tenants) == 1:
        return tenants[0]
    if name is None or name not in tenants:
        raise ValueError(f"name one of the configured tenants: {', '.join(tenants) or 'none is configured'}")
    return name


def _sync(task: Task, tenant: str, run: Any, *, urgent: bool = False) -> dict[str, Any]:
    """Run a sync; what may pass is retried by Celery, what the operator must mend is reported."""
    try:
        return _run_sync(tenant, run, urgent=urgent)
    except Auth0NotFound as error:
        return {"tenant": tenant, "state": "not_found", "problems": [str(error)]}
    except _MAY_PASS as error:
        failed = _failed(tenant, error)
        _retry(task, error)
        return failed


def _run_sync(tenant: str, run: Any, *, urgent: bool = False) -> dict[str, Any]:
    async def work() -> SyncReport:
        report: SyncReport = await run(await _process.runtime().sync(tenant, urgent=urgent))
        return report

    return _plain(_process.run(work))


def _failed(tenant: str, error: VaultError) -> dict[str, Any]:
    log.warning("sync.postponed", tenant=tenant, problem=str(error))
    return {"tenant": tenant, "state": "failed", "problems": [str(error)]}


def _retry(task: Task, error: VaultError) -> None:
    """Have Celery run the task again later, unless that was tried often enough."""
    if task.max_retries and task.request.retries < task.max_retries:
        wait = getattr(error, "retry_after", None) or RETRY_AFTER * 2**task.request.retries
        raise task.retry(countdown=wait) from None


async def _each_tenant(
    runtime: Runtime, work: Callable[[Runtime, str], Coroutine[Any, Any, T]]
) -> list[T | None]:
    """Do something for all tenants, some at a time; one tenant's failure does not stop another."""

    async def one(tenant: str) -> T | None:
        try:
            async with runtime.turns[work.__name__]:
                return await work(runtime, tenant)
        except VaultError as error:  # the next tick tries again
            log.warning("sync.postponed", tenant=tenant, problem=str(error))
        except DBAPIError as error:
            log.warning("sync.postponed", tenant=tenant, problem=str(explain(error)))
        except PoolTimeout:
            log.warning("sync.postponed", tenant=tenant, problem="all connections to Postgres are in use")
        return None

    return await asyncio.gather(*map(one, runtime.tenants))


async def _catch_up_if_due(runtime: Runtime, tenant: str) -> bool:
    """Returns whether there is more to do at once. What is due is asked of Postgres: two beats do no harm."""
    schedule, sync, more = runtime.settings.schedule, await runtime.sync(tenant), False
    if await _is_walk_due(runtime, tenant, sync):
        more = not (await sync.sync_all(budget=SLICE)).finished
    # Between two slices of a walk as well: it may take days, and what it finds is renewed with these.
    if await _is_past(
        runtime, await runs.last_began(runtime.vault, tenant, "connections"), schedule.connections
    ):
        await sync.sync_connections()
    return more


async def _is_walk_due(runtime: Runtime, tenant: str, sync: TenantSync) -> bool:
    """Whether a full sync is under way, or the last that came to its end is old; and failures were long enough ago."""
    if not await sync.is_under_way():
        complete = await runs.last_complete(runtime.vault, tenant, "all")
        if not await _is_past(runtime, complete and complete[0], runtime.settings.schedule.full):
            return False
    failures, failed_at = await runs.failures(runtime.vault, tenant, "all")
    return await _is_past(runtime, failed_at, min(TRY_AGAIN * 2 ** max(0, failures - 1), LONGEST_WAIT))


async def _is_past(runtime: Runtime, moment: datetime | None, seconds: float) -> bool:
    return moment is None or await runtime.vault.now() - moment >= timedelta(seconds=seconds)


async def _take_changes(runtime: Runtime, tenant: str) -> None:
    began = await runs.last_began(runtime.vault, tenant, "changes")
    if not await _is_past(runtime, began, runtime.settings.schedule.changes / 2):
        return  # two beats, or ticks that had piled up
    now = await runtime.vault.now()
    await runs.forget_old(runtime.vault, now=now)
    await outbox.forget_old(runtime.vault, before=now - timedelta(seconds=runtime.settings.events.keep))
    await (await runtime.sync(tenant)).sync_changes(budget=SLICE)
    await (await runtime.erasure(tenant)).sweep()


def _plain(result: Refreshed | SyncReport) -> dict[str, Any]:
    """Turn a result into JSON: ids, states, numbers and times."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(result).items()
    }
