"""Scans users page by page, and commits each page's cursor."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

from worker import traces
from worker.auth0 import ManagementClient, UserPage
from worker.auth0.errors import PagingWindowExceeded
from worker.auth0.search_query import TimeField
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.keyset_pagination import (
    MILLISECOND,
    KeysetScan,
    ScanCursor,
    ScanStep,
    decode_cursor,
    encode_cursor,
)
from worker.sync.mapping import Connections
from worker.sync.report import Progress, SyncReport
from worker.vault.grants import missing
from worker.vault.sync_state import cursors, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault


class FullScan:
    """Scans one tenant's users.

    Args:
        tenant: the tenant's name.
        vault: has the cursors.
        auth0: the tenant's Management API.
        ingest: stores what is read.
    """

    def __init__(self, tenant: str, vault: Vault, auth0: ManagementClient, ingest: SyncIngest) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._ingest = ingest

    async def run(
        self,
        feed: str,
        cursor: SyncCursor,
        report: SyncReport,
        *,
        by: TimeField = "created_at",
        connection: str | None = None,
        all_users: bool = False,
        full: bool = False,
        budget: float | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Continue from a cursor, within the time limit.

        Args:
            feed: the name that the cursor is stored under; at the end it stays, for the caller to remove.
            cursor: where to continue.
            report: counts what is done.
            by: the time in whose order users are read.
            connection: only users with an identity of this connection.
            all_users: the scan covers all users, so that those it does not find are missing.
            full: read unchanged users by id too, where lists do not show tokens.
            budget: seconds.
            progress: called after each page.

        Returns:
            Whether the end was reached.
        """
        connections = await self._ingest.load_connections()
        last = await runs.last_complete(self._vault, self._tenant, "all") if all_users else None
        since = last[0] - SEARCH_LAG if last else None
        stop_at = None if budget is None else time.monotonic() + budget
        scan_cursor = decode_cursor(cursor.token, cursor.page)
        await cursors.save(self._vault, self._tenant, feed, cursor)
        async for step in self._steps(by, scan_cursor, connections, report, connection):
            with traces.span("ingest_page", tenant=self._tenant, users=step.page.size):
                await self._ingest.ingest_page(step.page, connections, report, full=full, since=since)
                if all_users:
                    await self._mark_missing(step, report)
            if progress:
                progress(report.seen, _expected_total(step, report))
            if step.following is None:
                break
            token, page = encode_cursor(step.following)
            await cursors.save(self._vault, self._tenant, feed, replace(cursor, token=token, page=page))
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return False
        if progress:
            progress(report.seen, report.seen)
        return True

    async def _steps(
        self,
        by: TimeField,
        cursor: ScanCursor | None,
        connections: Connections,
        report: SyncReport,
        connection: str | None,
    ) -> AsyncIterator[ScanStep]:
        """Yield the scan's steps.

        Where more users share a millisecond than Auth0 shows of one query, an export names them.
        """

        async def fetch(since: datetime | None, until: datetime | None, page: int) -> UserPage:
            return await self._auth0.users_by(
                by, since, until=until, page=page, connection=connection, totals=True
            )

        scan = KeysetScan(by, fetch)
        while cursor is not None:
            try:
                async for step in scan.steps(cursor):
                    cursor = step.following
                    yield step
            except PagingWindowExceeded:
                if cursor is None or cursor.since is None:
                    raise
                await self._ingest_millisecond(by, cursor.since, connections, report)
                cursor = ScanCursor(cursor.since + MILLISECOND)

    async def _ingest_millisecond(
        self,
        by: TimeField,
        moment: datetime,
        connections: Connections,
        report: SyncReport,
    ) -> None:
        """Ingest by id the users of one millisecond.

        An export of all users names them.
        """
        user_ids = [
            user.user_id
            async for user in self._auth0.export.users(await self._auth0.export.create())
            if (at := user.created_at if by == "created_at" else user.updated_at) is not None
            and moment <= at < moment + MILLISECOND
        ]
        await self._ingest.ingest_by_id(user_ids, connections, report)
        report.seen += len(user_ids)

    async def _mark_missing(self, step: ScanStep, report: SyncReport) -> None:
        """Mark grants of users in the time range not shown."""
        if step.time_range is None:
            return
        since, until = step.time_range
        now = await self._vault.now()
        report.gone += await missing.mark_time_range(
            self._vault,
            self._tenant,
            since=since,
            until=min(until or now, now - SEARCH_LAG),
            observed_users=step.shown,
            now=now,
        )


def _expected_total(step: ScanStep, report: SyncReport) -> int | None:
    """Return the scan's total of users, if known."""
    return None if step.remaining is None else report.seen + max(0, step.remaining - step.page.size)
