"""Syncs a tenant: all, changes, one connection, one user."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta

from worker.auth0 import ManagementClient
from worker.auth0.errors import Auth0NotFound, MissingScope
from worker.resolved_connections import ConnectionResolver
from worker.sync.change_feeds import UPDATED_SCAN, ChangeFeeds
from worker.sync.export_reconciliation import EXPORT_FEED, ExportReconciler
from worker.sync.full_scan import FullScan
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.report import Progress, SyncReport
from worker.sync.run_record import record_run
from worker.vault.grants import missing
from worker.vault.leases import try_lease
from worker.vault.sync_state import cursors, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

USER_SCOPES = ("read:users", "read:user_idp_tokens")
USER_SCAN = "users"
# Up to this size, a full scan takes no more calls than the change feeds.
MAX_USERS_ALWAYS_SCANNED = 500
# Hooks cause the connections to be listed at most this often.
MIN_CONNECTIONS_INTERVAL = timedelta(minutes=1)
# For how long Auth0 keeps the tenant's log, in the plan with the shortest time.
MIN_LOG_RETENTION = timedelta(days=1)


class TenantSync:
    """Syncs one tenant.

    Args:
        tenant: the tenant's name.
        vault: stores the grants.
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
        self._ingest = SyncIngest(tenant, vault, connections, auth0)
        self._scan = FullScan(tenant, vault, auth0, self._ingest)
        self._reconciler = ExportReconciler(tenant, vault, auth0, self._ingest)
        self._feeds = ChangeFeeds(tenant, vault, auth0, self._ingest, retention=retention)

    async def catch_up(self, *, full: bool = False, progress: Progress | None = None) -> SyncReport:
        """Bring the vault up to date in the fewest calls.

        Args:
            full: scan all users, and also read unchanged ones by id if lists do not show tokens.

        Raises:
            Auth0Error, ConfigurationError: everything that was read before is committed.
        """
        last = await runs.last_complete(self._vault, self._tenant, "all")
        if full or last is None or last[1] <= MAX_USERS_ALWAYS_SCANNED or await self.is_in_progress():
            return await self.sync_all(full=full, progress=progress)
        report = await self.sync_connections()
        changes = await self.sync_changes(progress=progress)
        changes.connections = report.connections
        changes.problems = list(dict.fromkeys(report.problems + changes.problems))
        changes.stats.add(report.stats)
        return changes

    async def is_in_progress(self) -> bool:
        """Whether a sync of all users is unfinished."""
        return any(await self._load_cursors())

    async def _load_cursors(self) -> tuple[SyncCursor | None, SyncCursor | None]:
        """Load the cursors of a full scan and an export."""
        return (
            await cursors.load(self._vault, self._tenant, USER_SCAN),
            await cursors.load(self._vault, self._tenant, EXPORT_FEED),
        )

    async def sync_all(
        self, *, full: bool = False, budget: float | None = None, progress: Progress | None = None
    ) -> SyncReport:
        """Sync all connections, then all users.

        Unless ``full``, a stopped sync is resumed, and a large tenant that was scanned before is reconciled by an export.
        While another process runs this sync, nothing is done; the report says so.

        Args:
            full: begin anew, and also read unchanged users.
            budget: seconds after which it stops; the next sync resumes there.
            progress: called after each page.

        Raises:
            Auth0Error, ConfigurationError: everything that was read before is committed.
        """
        report = SyncReport(self._tenant, "all")
        async with self._try_lease("sync") as is_held:
            if not is_held:
                return replace(report, skipped=True)
            if full:
                await cursors.remove(self._vault, self._tenant, USER_SCAN)
                await self._reconciler.abandon()
            scan, export = await self._load_cursors()
            async with record_run(self._vault, report, scan or export) as (run_id, began):
                if not (scan or export):
                    await self._feeds.prepare(report)
                    await self._ingest_connections_if_allowed(report)
                await self._auth0.require(*USER_SCOPES)
                if not (scan or full) and await self._reconciler.run(
                    export, run_id, began, report, budget=budget, progress=progress
                ):
                    return report
                if await self._scan.run(
                    USER_SCAN,
                    replace(scan or SyncCursor(), run_id=run_id),
                    report,
                    all_users=True,
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
        """Sync the users who changed since the last sync.

        While another process runs this sync, nothing is done; the report says so.

        Args:
            budget, progress: as ``sync_all``.

        Raises:
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "changes")
        async with self._try_lease("changes") as is_held:
            if not is_held:
                return replace(report, skipped=True)
            async with record_run(self._vault, report, None):
                await self._auth0.require(*USER_SCOPES)
                is_logged = await self._feeds.prepare(report) and await self._feeds.read_log(report, budget)
                await self._scan_changed(report, budget, progress, is_log_unreadable=not is_logged)
        return report

    async def _scan_changed(
        self, report: SyncReport, budget: float | None, progress: Progress | None, *, is_log_unreadable: bool
    ) -> None:
        """Scan changed users, if such a scan is scheduled.

        Args:
            is_log_unreadable: if so, the next scan is scheduled, from the beginning of this one less the search lag.
        """
        cursor = await cursors.load(self._vault, self._tenant, UPDATED_SCAN)
        if cursor is None:
            return
        began = await self._vault.now()
        if not await self._scan.run(
            UPDATED_SCAN, cursor, report, by="updated_at", budget=budget, progress=progress
        ):
            return
        if is_log_unreadable:
            following = SyncCursor((began - SEARCH_LAG).isoformat())
            await cursors.save(self._vault, self._tenant, UPDATED_SCAN, following)
        else:
            await cursors.remove(self._vault, self._tenant, UPDATED_SCAN)

    async def follow(self, stop: asyncio.Event) -> bool:
        """Sync the users whom events name, until ``stop``.

        It also ends when Auth0 closes the connection.

        Returns:
            False if another process already follows the events.

        Raises:
            MissingScope: ``read:events`` is not granted.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        async with self._try_lease("events") as is_held:
            if is_held:
                await self._auth0.require(*USER_SCOPES, "read:events")
                await self._feeds.follow(stop)
            return is_held

    async def sync_connection(
        self, name: str, *, full: bool = False, progress: Progress | None = None
    ) -> SyncReport:
        """Sync one connection and its users.

        Raises:
            Auth0NotFound: the tenant has no such connection.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report, feed = SyncReport(self._tenant, "connection"), f"users of {name}"
        async with self._try_lease(feed) as is_held:
            if not is_held:
                return replace(report, skipped=True)
            cursor = None if full else await self._load_recent_cursor(feed)
            async with record_run(self._vault, report, cursor) as (run_id, _):
                await self._ingest.ingest_connection(name, report)
                await self._auth0.require(*USER_SCOPES)
                start = replace(cursor or SyncCursor(), run_id=run_id)
                await self._scan.run(feed, start, report, connection=name, full=full, progress=progress)
                await cursors.remove(self._vault, self._tenant, feed)
        return report

    async def _load_recent_cursor(self, feed: str) -> SyncCursor | None:
        """Load a stopped scan's cursor, unless it is too old.

        It is too old if the scan began before the log's retention: the log may then not name users who were scanned, and
        changed since.
        """
        cursor = await cursors.load(self._vault, self._tenant, feed)
        began = await runs.started_at(self._vault, cursor.run_id) if cursor and cursor.run_id else None
        return cursor if began and await self._vault.now() - began < MIN_LOG_RETENTION else None

    async def sync_connections(self) -> SyncReport:
        """Sync all connections, and no users.

        Raises:
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "connections")
        async with record_run(self._vault, report, None):
            await self._ingest.ingest_all_connections(report)
            await self._ingest.load_connections()
        return report

    async def sync_user(self, user_id: str) -> SyncReport:
        """Sync one user.

        Raises:
            Auth0NotFound: the tenant has no such user; the user's grants are erased once that is confirmed.
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "user")
        async with record_run(self._vault, report, None):
            await self._auth0.require(*USER_SCOPES)
            try:
                user = await self._auth0.user(user_id)
            except Auth0NotFound:
                now = await self._vault.now()
                report.gone += await missing.mark_users(self._vault, self._tenant, [user_id], now=now)
                raise
            connections = await self._ingest.load_connections()
            if any((self._tenant, identity.connection) not in connections for identity in user.identities):
                # The connection was created after the last sync; its client is needed for renewals.
                await self._ingest_connections_if_allowed(report)
                connections = await self._ingest.load_connections()
            await self._ingest.ingest_users([user], connections, report)
            report.seen += 1
            report.failed += len(user.malformed)
            report.problems += user.malformed
        return report

    async def sync_users(self, user_ids: Sequence[str]) -> SyncReport:
        """Sync users by id, as named by hooks.

        Users whom Auth0 does not have are marked missing, and erased once that is confirmed.

        Raises:
            Auth0Error, ConfigurationError: as ``sync_all``.
        """
        report = SyncReport(self._tenant, "users")
        await self._auth0.require(*USER_SCOPES)
        connections = await self._ingest.load_connections()
        found = await self._ingest.ingest_by_id(user_ids, connections, report)
        users = [user for user in found.values() if user is not None]
        named = {(self._tenant, identity.connection) for user in users for identity in user.identities}
        if named - connections.keys() and await self._are_connections_stale():
            # The connection was created after the last sync; its client is needed for renewals.
            await self.sync_connections()
            await self._ingest.ingest_users(users, await self._ingest.load_connections(), report)
        report.seen += len(user_ids)
        report.absent += [user_id for user_id, user in found.items() if user is None]
        return report

    async def _are_connections_stale(self) -> bool:
        """Whether the connections may be listed again.

        Otherwise each user of a connection that Auth0 does not list would cause one more listing.
        """
        last = await runs.last_started(self._vault, self._tenant, "connections")
        return last is None or await self._vault.now() - last > MIN_CONNECTIONS_INTERVAL

    def _try_lease(self, what: str) -> AbstractAsyncContextManager[bool]:
        return try_lease(self._vault, f"{what} of {self._tenant}")

    async def _ingest_connections_if_allowed(self, report: SyncReport) -> None:
        """Sync connections, or report why they cannot be read.

        Users are synced all the same: their tokens can at least be served until they expire.
        """
        try:
            await self._ingest.ingest_all_connections(report)
        except MissingScope as error:
            report.problems.append(str(error))
