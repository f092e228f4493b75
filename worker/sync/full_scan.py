"""Scans users page by page, and commits each page's cursor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from worker import traces
from worker.auth0 import Auth0User, ManagementClient, UserPage
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
from worker.sync.mapping import Connections, identity_keys, is_whole
from worker.sync.readahead import read_ahead, start_each
from worker.sync.report import Progress, SyncReport
from worker.vault.database_clock import DatabaseClock
from worker.vault.sync_state import cursors, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.sync_state.scanned_pages import ScannedPage, commit_page
from worker.vault.vault import Vault

# While a page is committed, so many after it are being stored: one is encrypted while Postgres stores the other.
PAGES_AHEAD = 2


@dataclass(frozen=True, slots=True)
class _Scan:
    """One run of a scan.

    Attributes:
        feed: the name under which the cursor is stored.
        cursor: where it begins, with its sync run.
        by: the time by which users are ordered.
        connection: only users with an identity of this connection; None for all users.
        connections: as stored in the vault.
        report: counts what is done.
        clock: the database's.
        marks_absent: it covers all users, so those it does not find are missing.
        stop_at: when its time is up, by the monotonic clock.
    """

    feed: str
    cursor: SyncCursor
    by: TimeField
    connection: str | None
    connections: Connections
    report: SyncReport
    clock: DatabaseClock
    marks_absent: bool
    stop_at: float | None

    def is_time_up(self) -> bool:
        """Whether the scan must stop after the current page."""
        return self.stop_at is not None and time.monotonic() > self.stop_at

    def cursor_behind(self, step: ScanStep) -> SyncCursor | None:
        """Return where the scan continues; None at its end."""
        if step.following is None:
            return None
        token, page = encode_cursor(step.following)
        return replace(self.cursor, token=token, page=page)


class FullScan:
    """Scans one tenant's users.

    Args:
        tenant: the tenant's name.
        vault: stores the cursors.
        auth0: the tenant's Management API.
        ingest: stores the users.
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
            feed: the name under which the cursor is stored. The caller removes it after the end of the scan.
            cursor: where to continue.
            report: counts what is done.
            by: the time by which users are ordered.
            connection: only users with an identity of this connection; None for all users.
            all_users: the scan covers all users, so those it does not find are missing.
            full: also read unchanged users by id, if lists do not show tokens.
            budget: seconds after which it stops.
            progress: called after each page.

        Returns:
            Whether the end was reached.
        """
        last = await runs.last_complete(self._vault, self._tenant, "all") if all_users else None
        since = last[0] - SEARCH_LAG if last else None
        scan = _Scan(
            feed, cursor, by, connection, await self._ingest.load_connections(), report,
            DatabaseClock(await self._vault.now()),
            marks_absent=all_users,
            stop_at=None if budget is None else time.monotonic() + budget,
        )  # fmt: skip
        await cursors.save(self._vault, self._tenant, feed, cursor)
        async with aclosing(self._ingested(scan, full=full, since=since)) as pages:
            async for step, listed in pages:
                report.add_page(step.page)
                await self._commit(scan, step, listed)
                if progress:
                    progress(report.seen, _expected_total(step, report))
                if step.following is None:
                    break
                if scan.is_time_up():
                    report.finished = False
                    return False
        if progress:
            progress(report.seen, report.seen)
        return True

    async def _ingested(
        self, scan: _Scan, *, full: bool, since: datetime | None
    ) -> AsyncGenerator[tuple[ScanStep, list[Auth0User]], None]:
        """Yield steps once their grants are stored.

        Each comes with the users for whom its page is the newest answer. Without a rate limit, the next pages are being
        stored meanwhile, and the one after them is read.
        """

        async def ingest(step: ScanStep) -> list[Auth0User]:
            with traces.span("ingest_page", tenant=self._tenant, users=step.page.size):
                return await self._ingest.ingest_page(
                    step.page, scan.connections, scan.report, now=scan.clock.now(), full=full, since=since
                )

        def may_run_ahead() -> bool:
            # Under a rate limit there is time to store a page between two calls, and a kill would waste calls.
            return self._auth0.is_unlimited and not scan.is_time_up()

        async with AsyncExitStack() as stack:
            steps = await stack.enter_async_context(aclosing(self._steps(scan)))
            read = await stack.enter_async_context(aclosing(read_ahead(steps, allowed=may_run_ahead)))
            pages = await stack.enter_async_context(aclosing(start_each(read, ingest)))
            for _ in range(PAGES_AHEAD):
                pages = await stack.enter_async_context(aclosing(read_ahead(pages, allowed=may_run_ahead)))
            async for step, ingesting in pages:
                yield step, await asyncio.shield(ingesting)

    async def _steps(self, scan: _Scan) -> AsyncGenerator[ScanStep, None]:
        """Yield the scan's steps.

        If more users share a millisecond than Auth0 shows of one query, they are found in an export.
        """

        async def fetch(since: datetime | None, until: datetime | None, page: int) -> UserPage:
            return await self._auth0.users_by(
                scan.by, since, until=until, page=page, connection=scan.connection, totals=True
            )

        keyset = KeysetScan(scan.by, fetch, scan.clock.now)
        cursor: ScanCursor | None = decode_cursor(scan.cursor.token, scan.cursor.page)
        while cursor is not None:
            try:
                async with aclosing(keyset.steps(cursor)) as steps:
                    async for step in steps:
                        cursor = step.following
                        yield step
            except PagingWindowExceeded:
                if cursor is None or cursor.since is None:
                    raise
                await self._ingest_millisecond(scan, cursor.since)
                cursor = ScanCursor(cursor.since + MILLISECOND)

    async def _ingest_millisecond(self, scan: _Scan, moment: datetime) -> None:
        """Ingest by id the users of one millisecond.

        They are found in an export of all users.
        """
        user_ids = [
            user.user_id
            async for user in self._auth0.export.users(await self._auth0.export.create())
            if (at := user.created_at if scan.by == "created_at" else user.updated_at) is not None
            and moment <= at < moment + MILLISECOND
        ]
        await self._ingest.ingest_by_id(user_ids, scan.connections, scan.report)
        scan.report.seen += len(user_ids)

    async def _commit(self, scan: _Scan, step: ScanStep, listed: Sequence[Auth0User]) -> None:
        """Mark what the page shows as missing; save the cursor.

        Args:
            listed: the page's users, without those who were then read by id.
        """
        page = ScannedPage(
            [user.user_id for user in listed if is_whole(user)],
            identity_keys(listed, self._tenant),
            marked_before=step.asked_at - SEARCH_LAG,
            time_range=settled_range(step) if scan.marks_absent else None,
            shown_users=step.shown,
        )
        gone, now = await commit_page(
            self._vault, self._tenant, page, scan.feed, scan.cursor_behind(step), now=scan.clock.now()
        )
        scan.report.gone += gone
        scan.clock.set(now)


def settled_range(step: ScanStep) -> tuple[datetime | None, datetime] | None:
    """Return the range of which a page shows all users.

    It ends at the search lag before the request: more recent users may be missing from the page.
    """
    if step.time_range is None:
        return None
    since, until = step.time_range
    return since, min(until or step.asked_at, step.asked_at - SEARCH_LAG)


def _expected_total(step: ScanStep, report: SyncReport) -> int | None:
    """Return the scan's total of users, if known."""
    return None if step.remaining is None else report.seen + max(0, step.remaining - step.page.size)
