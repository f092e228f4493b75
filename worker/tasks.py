"""The Celery tasks.

Arguments and results hold ids, states and times only. Each task is safe to run twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import structlog
from celery import Task, shared_task
from celery.signals import worker_process_shutdown, worker_shutdown
from kombu.exceptions import OperationalError

from token_vault.errors import (
    AmbiguousAccount,
    ConfigurationError,
    TemporarilyUnavailable,
    TokenNotFound,
    VaultError,
)
from worker import audit, instruments, sync_schedule
from worker.auth0.errors import Auth0NotFound, Auth0RateLimited, Auth0Unreachable
from worker.process import Process
from worker.renewal.on_demand import Refreshed
from worker.sync.report import SyncReport
from worker.sync.tenant_sync import TenantSync
from worker.task_messages import CLOCK_SKEW_SECONDS, MAX_COUNTDOWN_SECONDS
from worker.vault.db.names import is_name
from worker.vault.grants import refresh_digests
from worker.vault.location import CopiedVault

log = structlog.get_logger(__name__)

# A sync is tried again when Auth0 cannot be reached or its rate limit is spent; the wait doubles each time.
MAX_SYNC_RETRIES = 5
FIRST_RETRY_SECONDS = 15.0

# Failures that pass without anybody's help.
_TEMPORARY = (Auth0RateLimited, Auth0Unreachable, TemporarilyUnavailable)

# What is run of one tenant's sync.
Sync = Callable[[TenantSync], Coroutine[Any, Any, SyncReport]]


@dataclass(slots=True)
class LastRenewal:
    """When this process last began to renew what is due.

    Attributes:
        began_at: monotonic seconds.
    """

    began_at: float = float("-inf")


process = Process()
last_renewal = LastRenewal()


@worker_shutdown.connect
@worker_process_shutdown.connect
def _close(**_: object) -> None:
    process.close()


@shared_task(name="worker.renew_due", ignore_result=True)
def renew_due() -> None:
    """Renew the grants that are due.

    Finding none is the normal case.
    """
    last_renewal.began_at = time.monotonic()
    runtime = process.runtime()
    try:
        outcomes = process.run(lambda: runtime.engine.renew_due(runtime.tenants))
    except (TemporarilyUnavailable, CopiedVault) as error:
        log.warning("renewal.postponed", error=str(error))  # the next tick looks again
        return
    if outcomes:
        log.info("renewal.finished", **{outcome.value: count for outcome, count in outcomes.items()})


@shared_task(name="worker.deliver_events", ignore_result=True)
def deliver_events() -> None:
    """Deliver the events that wait for it.

    Finding none is the normal case.
    """
    runtime = process.runtime()
    try:
        counts = process.run(lambda: runtime.dispatcher.deliver_due(runtime.tenants))
    except (TemporarilyUnavailable, CopiedVault) as error:
        log.warning("delivery.postponed", error=str(error))  # the next tick looks again
        return
    for outcome, number in counts.items():
        instruments.deliveries.labels(outcome).inc(number)
    if counts:
        log.info("delivery.finished", **counts)


@shared_task(name="worker.keep_audit", ignore_result=True)
def keep_audit() -> None:
    """Keep the audit's partitions and its copy in a file."""
    runtime = process.runtime()
    try:
        shipped = process.run(lambda: audit.keep_audit(runtime.vault, runtime.settings.audit.path))
    except (ConfigurationError, TemporarilyUnavailable) as error:
        log.warning("audit.postponed", error=str(error))  # the next tick begins where this one ended
        return
    if shipped:
        log.info("audit.shipped", records=shipped)


@shared_task(name="worker.digest_refresh_tokens", ignore_result=True)
def digest_refresh_tokens() -> None:
    """Digest the refresh tokens that providers' events may name."""
    runtime = process.runtime()
    connections = {name for each in runtime.settings.hooks.events.values() for name in each.connections}
    try:
        number = process.run(
            lambda: refresh_digests.digest_refresh_tokens(runtime.vault, runtime.tenants, sorted(connections))
        )
    except TemporarilyUnavailable as error:
        log.warning("digests.postponed", error=str(error))  # the next tick looks again
        return
    if number:
        log.info("digests.stored", tokens=number)


@shared_task(name="worker.refresh_token")
def refresh_token(
    user_id: str | None = None,
    connection: str | None = None,
    admin_connection: str | None = None,
    min_ttl: float | None = None,
    force: bool = False,
    tenant: str | None = None,
    account: str | None = None,
) -> dict[str, Any]:
    """Make sure that one grant's token is fresh.

    Args:
        user_id: Auth0's user id; with ``connection``.
        connection: the connection's name.
        admin_connection: instead of both, the connection whose admin token is meant.
        min_ttl: seconds of life wanted.
        force: renew even a fresh token.
        tenant: the tenant's name, where several are configured.
        account: with ``user_id``, the user's id at the provider, where several accounts are linked.

    Returns:
        ``state`` (``not_found`` and, with ``accounts``, ``ambiguous_account`` among them), ``renewed``,
        ``expires_at``, ``reason``, ``since``, ``retry_after``.
    """
    names = {"user_id": user_id, "connection": connection, "admin_connection": admin_connection,
             "tenant": tenant, "account": account}  # fmt: skip
    _check_names(**{name: value or "" for name, value in names.items()})
    # An empty user id would name the admin grant: it is refused like a missing one.
    if bool(admin_connection) == bool(user_id and connection) or (
        admin_connection and (user_id or connection or account)
    ):
        raise ValueError("give user_id and connection, or admin_connection alone")
    if min_ttl is not None and (isinstance(min_ttl, bool) or not isinstance(min_ttl, int | float)):
        raise ValueError("min_ttl is a number of seconds")
    if force not in (True, False):
        raise ValueError("force is true or false")
    runtime = process.runtime()
    tenants = [tenant] if tenant else runtime.tenants
    wanted: dict[str, Any] = {"user_id": user_id or "", "connection": connection or admin_connection or ""}
    try:
        refreshed = process.run(
            lambda: runtime.on_demand.refresh(
                tenants=tenants, account=account or None, min_ttl=min_ttl, force=force, **wanted
            )
        )
    except TokenNotFound:
        return {"state": "not_found", "renewed": False} | wanted
    except AmbiguousAccount as error:
        return {"state": "ambiguous_account", "renewed": False, "accounts": list(error.accounts)} | wanted
    return _to_json(refreshed)


@shared_task(name="worker.sync_all", bind=True, max_retries=MAX_SYNC_RETRIES)
def sync_all(self: Task, full: bool = False) -> list[dict[str, Any]]:
    """Bring every tenant's connections and users up to date.

    One tenant's failure does not stop another.

    Args:
        full: scan all users, instead of asking for those who changed.
    """
    if full not in (True, False):
        raise ValueError("full is true or false")
    reports, postponed = [], None
    for tenant in process.runtime().tenants:
        try:
            reports.append(_run_sync(tenant, lambda sync: sync.catch_up(full=full)))
        except VaultError as error:
            reports.append(_failed(tenant, error))
            postponed = error if isinstance(error, _TEMPORARY) else postponed
    if postponed:
        _retry(self, postponed)
    return reports


@shared_task(name="worker.sync_due", ignore_result=True, bind=True)
def sync_due(self: Task) -> None:
    """Continue full scans, and begin the syncs that are due."""
    runtime = process.runtime()
    while any(process.run(lambda: sync_schedule.for_each_tenant(runtime, sync_schedule.sync_if_due))):
        try:  # in a new message: a task that takes hours could not be stopped
            self.apply_async(expires=sync_schedule.SCAN_SLICE_SECONDS + CLOCK_SKEW_SECONDS)
        except OperationalError as error:  # a full scan does not need Redis, so it goes on here
            log.warning("sync.handover_failed", error=type(error).__name__)
            continue
        return


@shared_task(name="worker.sync_changes", ignore_result=True)
def sync_changes() -> None:
    """Ingest each tenant's changes; erase what is gone for good."""
    runtime = process.runtime()
    process.run(lambda: sync_schedule.for_each_tenant(runtime, sync_schedule.sync_changes))


@shared_task(name="worker.sync_user", bind=True, max_retries=MAX_SYNC_RETRIES)
def sync_user(self: Task, user_id: str, tenant: str | None = None) -> dict[str, Any]:
    """Sync all identities of one user, as Auth0 has them."""
    _check_names(user_id=user_id)
    return _sync(self, _configured_tenant(tenant), lambda sync: sync.sync_user(user_id), urgent=True)


@shared_task(name="worker.sync_connection", bind=True, max_retries=MAX_SYNC_RETRIES)
def sync_connection(self: Task, connection: str, tenant: str | None = None) -> dict[str, Any]:
    """Sync one connection and the users who have it."""
    _check_names(connection=connection)
    return _sync(self, _configured_tenant(tenant), lambda sync: sync.sync_connection(connection))


def _check_names(**names: object) -> None:
    """Refuse what cannot be a name.

    Postgres or Auth0 would fail on it, and be retried again and again.
    """
    for argument, value in names.items():
        if not is_name(value):
            raise ValueError(f"{argument} is no name")


def _configured_tenant(name: str | None) -> str:
    tenants = process.runtime().tenants
    if name is None and len(tenants) == 1:
        return tenants[0]
    if name is None or name not in tenants:
        raise ValueError(f"name one of the configured tenants: {', '.join(tenants) or 'none is configured'}")
    return name


def _sync(task: Task, tenant: str, sync: Sync, *, urgent: bool = False) -> dict[str, Any]:
    """Run a sync.

    Celery retries what may pass; what the operator must fix is reported.
    """
    try:
        return _run_sync(tenant, sync, urgent=urgent)
    except Auth0NotFound as error:
        return {"tenant": tenant, "state": "not_found", "problems": [str(error)]}
    except _TEMPORARY as error:
        failed = _failed(tenant, error)
        _retry(task, error)
        return failed


def _run_sync(tenant: str, sync: Sync, *, urgent: bool = False) -> dict[str, Any]:
    async def work() -> SyncReport:
        return await sync(await process.runtime().tenant_sync(tenant, urgent=urgent))

    return _to_json(process.run(work))


def _failed(tenant: str, error: VaultError) -> dict[str, Any]:
    log.warning("sync.postponed", tenant=tenant, error=str(error))
    return {"tenant": tenant, "state": "failed", "problems": [str(error)]}


def _retry(task: Task, error: VaultError) -> None:
    """Let Celery run the task again later, within its retries."""
    if task.max_retries and task.request.retries < task.max_retries:
        wait = getattr(error, "retry_after", None) or FIRST_RETRY_SECONDS * 2**task.request.retries
        raise task.retry(countdown=min(wait, MAX_COUNTDOWN_SECONDS)) from None


def _to_json(result: Refreshed | SyncReport) -> dict[str, Any]:
    """Turn a result into JSON: ids, states, numbers and times."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(result).items()
    }
