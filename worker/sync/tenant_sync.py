"""Syncs one tenant: everybody, those who changed, one connection or one user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from worker.auth0 import ManagementClient
from worker.auth0.errors import Auth0Error, Auth0NotFound, MissingScope
from worker.resolved_connections import ConnectionResolver
from worker.sync.change_feeds import UPDATED_SCAN, ChangeFeeds
from worker.sync.export_reconciliation import EXPORT_FEED, ExportReconciler
from worker.sync.full_scan import FullScan
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.report import Progress, SyncReport
from worker.vault.advisory_locks import try_lock
from worker.vault.grants import missing
from worker.vault.sync_state import cursors, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

USER_SCOPES = ("read:users", "read:user_idp_tokens")
USER_SCAN = "users"
# A tenant of so few users is walked whole whenever somebody asks for a sync: it takes no more calls than its feeds.
MAX_USERS_SCANNED_ALWAYS = 500
# The shortest time that any plan keeps the tenant's log.
MIN_LOG_RETENTION = timedelta(days=1)


class TenantSync:
    """Syncs one tenant.

    Args:
        tenant: the tenant's name.
        vault: where grants go.
        connections: resolves each connection's client.
        auth0: the tenant's Management API.
        retention: how long the tenant keeps its log.
    """

    def __init__(
        self,
        tenant: str,
        vault: Vault,
        connections: ConnectionResolver,
        auth0: ManagementClient,
        *,
        retention: timedelta = MIN_LOG_RETENTION,
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._keeping = SyncIngest(tenant, vault, connections, auth0)
        self._walking = FullScan(tenant, vault, auth0, self._keeping)
        self._reconciling = ExportReconciler(tenant, vault, auth0, self._keeping)
        self._feeds = ChangeFeeds(tenant, vault, auth0, self._keeping, retention=retention)

    # What can be asked for

    async def catch_up(self, *, full: bool = False, progress: Progress | None = None) -> SyncReport:
        """Bring the vault to where the tenant is, with as few calls as that takes.

        Args:
            full: walk through everybody, and ask for unchanged users by id too where lists do not show tokens.

        Raises:
            Auth0Error, ConfigurationError: after what was read until then is committed.
        """
        last = await runs.last_complete(self._vault, self._tenant, "all")
        if full or last is None or last[1] <= MAX_USERS_SCANNED_ALWAYS or await self.is_under_way():
            return await self.sync_all(full=full, progress=progress)
        report = await self.sync_connections()
        changes = await self.sync_changes(progress=progress)
        changes.connections = report.connections
        changes.problems = list(dict.fromkeys(report.problems + changes.problems))
        changes.stats.add(report.stats)
        return changes

    async def is_under_way(self) -> bool:
        """Whether a sync of everybody was begun and has not come to its end."""
        return any(await self._under_way())

    async def _under_way(self) -> tuple[SyncCursor | None, SyncCursor | None]:
        """How far a walk is, and how far a reconciliation by an export."""
        return (
            await cursors.load(self._vault, self._tenant, USER_SCAN),
            await cursors.load(self._vault, self._tenant, EXPORT_FEED),
        )

    async def sync_all(
        self, *, full: bool = False, budget: float | None = None, progress: Progress | None = None
    ) -> SyncReport:
        """Sync all connections, then all users; one process at a time, others skip.

        A large tenant that was gone through before is reconciled by an export instead of a walk, unless ``full``.
        It goes on from where an earlier one was stopped, unless ``full``.

        Args:
            full: ask for every user again, unchanged ones included.
            budget: seconds after which it stops, to be gone on with.
            progress: called after each page.

        Raises:
            Auth0Error, ConfigurationError: after what was read until then is committed.
        """
        report = SyncReport(self._tenant, "all")
        async with self._alone("sync") as alone:
            if not alone:
                return replace(report, skipped=True)
            if full:
                await cursors.remove(self._vault, self._tenant, USER_SCAN)
                await self._reconciling.drop()
            walk, export = await self._under_way()
            async with self._recorded(report, walk or export) as (run_id, began):
                if not (walk or export):
                    await self._feeds.begin(report)
                    await self._connections_if_allowed(report)
                await self._auth0.require(*USER_SCOPES)
                if not (walk or full) and await self._reconciling.run(
                    export, run_id, began, report, budget=budget, progress=progress
                ):
                    return report
                if await self._walking.run(
                    USER_SCAN,
                    replace(walk or SyncCursor(), run_id=run_id),
                    report,
                    everybody=True,
                    full=full,
                    budget=budget,
                    progress=progress,
                ):
                    now = await self._vault.now()
                    report.gone += await missing.mark_undated(
                        self._vault, self._tenant, before=began, now=now
                    )
                    await cursors.remove(self._vault, self._tenant, USER_SCAN)
        return report

    async def sync_changes(
        self, *, budget: float | None = None, progress: Progress | None = None
    ) -> SyncReport:
        """Sync the users who changed since the last time; one process at a time, others skip.

        Args:
            budget, progress: as ``sync_all``.

        Raises:
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "changes")
        async with self._alone("changes") as alone:
            if not alone:
                return replace(report, skipped=True)
            async with self._recorded(report, None):
                await self._auth0.require(*USER_SCOPES)
                logged = await self._feeds.begin(report) and await self._feeds.read_log(report, budget)
                await self._changed(report, budget, progress, again=not logged)
        return report

    async def _changed(
        self, report: SyncReport, budget: float | None, progress: Progress | None, *, again: bool
    ) -> None:
        """Walk through those who changed since a time, where the log does not tell.

        Args:
            again: there is no log at all: the next walk begins where this one did, and a little before.
        """
        position = await cursors.load(self._vault, self._tenant, UPDATED_SCAN)
        if position is None:
            return
        began = await self._vault.now()
        if not await self._walking.run(
            UPDATED_SCAN, position, report, by="updated_at", budget=budget, progress=progress
        ):
            return
        if again:
            following = SyncCursor((began - SEARCH_LAG).isoformat())
            await cursors.save(self._vault, self._tenant, UPDATED_SCAN, following)
        else:
            await cursors.remove(self._vault, self._tenant, UPDATED_SCAN)

    async def follow(self, stop: asyncio.Event) -> bool:
        """Sync the users whom the tenant's events name, as they come, until the connection ends or ``stop``.

        Returns:
            False where another process follows them already.

        Raises:
            MissingScope: ``read:events`` is not granted.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        async with self._alone("events") as alone:
            if alone:
                await self._auth0.require(*USER_SCOPES, "read:events")
                await self._feeds.follow(stop)
            return alone

    async def sync_connection(
        self, name: str, *, full: bool = False, progress: Progress | None = None
    ) -> SyncReport:
        """Sync one connection and the users who have an identity of it.

        Raises:
            Auth0NotFound: the tenant has no such connection.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report, feed = SyncReport(self._tenant, "connection"), f"users of {name}"
        async with self._alone(feed) as alone:
            if not alone:
                return replace(report, skipped=True)
            position = None if full else await self._left(feed)
            async with self._recorded(report, position) as (run_id, _):
                await self._keeping.ingest_connection(name, report)
                await self._auth0.require(*USER_SCOPES)
                begun = replace(position or SyncCursor(), run_id=run_id)
                await self._walking.run(feed, begun, report, connection=name, full=full, progress=progress)
                await cursors.remove(self._vault, self._tenant, feed)
        return report

    async def _left(self, feed: str) -> SyncCursor | None:
        """Where a walk was left; None where that is so long ago that the log may not tell who changed behind it."""
        position = await cursors.load(self._vault, self._tenant, feed)
        began = await runs.started_at(self._vault, position.run_id) if position and position.run_id else None
        return position if began and await self._vault.now() - began < MIN_LOG_RETENTION else None

    async def sync_connections(self) -> SyncReport:
        """Sync all connections, and no users.

        Raises:
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "connections")
        async with self._recorded(report, None):
            await self._keeping.ingest_all_connections(report)
            await self._keeping.load_connections()
        return report

    async def sync_user(self, user_id: str) -> SyncReport:
        """Sync one user.

        Raises:
            Auth0NotFound: the tenant has no such user; what the vault holds of it is erased once that is confirmed.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "user")
        async with self._recorded(report, None):
            await self._auth0.require(*USER_SCOPES)
            try:
                user = await self._auth0.user(user_id)
            except Auth0NotFound:
                now = await self._vault.now()
                report.gone += await missing.mark_users(self._vault, self._tenant, [user_id], now=now)
                raise
            known = await self._keeping.load_connections()
            if any((self._tenant, identity.connection) not in known for identity in user.identities):
                # A connection made since the last sync: without it there is nothing to renew with.
                await self._connections_if_allowed(report)
                known = await self._keeping.load_connections()
            await self._keeping.users([user], known, report)
            report.seen += 1
            report.failed += len(user.malformed)
            report.problems += user.malformed
        return report

    # How it is done

    def _alone(self, what: str) -> AbstractAsyncContextManager[bool]:
        return try_lock(self._vault, f"{what} of {self._tenant}")

    @asynccontextmanager
    async def _recorded(
        self, report: SyncReport, position: SyncCursor | None
    ) -> AsyncIterator[tuple[int, datetime]]:
        """Keep a record of how a sync goes, whether it ends well or not; gives the run's id and when it began."""
        began, run_id = await self._vault.now(), position and position.run_id
        resumed = await runs.resume_run(self._vault, run_id) if run_id else None
        if resumed and run_id:
            began, counts = resumed
            report.resume(counts)
        else:
            run_id = await runs.begin_run(self._vault, tenant=self._tenant, scope=report.scope, now=began)
        error: str | None = "interrupted"
        complete = False
        try:
            yield run_id, began
            complete = report.finished
            error = "; ".join(report.problems[:5]) or None
        except Exception as failure:
            error = str(failure) if isinstance(failure, Auth0Error | MissingScope) else type(failure).__name__
            raise
        finally:
            ended = await self._vault.now() if report.finished else None
            await runs.update_run(
                self._vault,
                run_id,
                report.counts,
                finished_at=ended,
                complete=complete,
                notes=report.notes,
                error=error,
            )
        log.info("sync.finished" if report.finished else "sync.paused", tenant=self._tenant, scope=report.scope,
                 seen=report.seen, failed=report.failed, gone=report.gone)  # fmt: skip

    async def _connections_if_allowed(self, report: SyncReport) -> None:
        """Users are worth having without connections: what is served until it ends is better than nothing."""
        try:
            await self._keeping.ingest_all_connections(report)
        except MissingScope as without:
            report.problems.append(str(without))
