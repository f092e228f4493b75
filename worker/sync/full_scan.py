"""Goes through users page by page, and commits with each page where to go on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime

from worker.auth0 import ManagementClient, UserPage
from worker.auth0.errors import PagingWindowExceeded
from worker.resolved_connections import ResolvedConnection
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.keyset_pagination import (
    MILLISECOND,
    Field,
    KeysetScan,
    ScanCursor,
    ScanStep,
    decode_cursor,
    encode_cursor,
)
from worker.sync.report import Progress, SyncReport
from worker.vault.grants import missing
from worker.vault.sync_state import cursors, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault


class FullScan:
    """Walks through one tenant's users.

    Args:
        tenant: the tenant's name.
        vault: where it is committed how far a walk has come.
        auth0: the tenant's Management API.
        keeping: keeps what is shown.
    """

    def __init__(self, tenant: str, vault: Vault, auth0: ManagementClient, keeping: SyncIngest) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._keeping = keeping

    async def run(
        self,
        feed: str,
        position: SyncCursor,
        report: SyncReport,
        *,
        by: Field = "created_at",
        connection: str | None = None,
        everybody: bool = False,
        full: bool = False,
        budget: float | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Go on from a position, to the end or until the time is up.

        Args:
            feed: the name that the position is kept under; what becomes of it at the end is the caller's.
            by: the time in whose order it goes.
            connection: only users with an identity of this connection.
            everybody: it goes through all users, so that whom it is not shown may be gone.
            full: ask for users by id too who have not changed, where lists do not show tokens.
            budget: seconds.
            progress: called after each page.

        Returns:
            Whether the end was reached.
        """
        known = await self._keeping.load_connections()
        last = await runs.last_complete(self._vault, self._tenant, "all") if everybody else None
        since = last[0] - SEARCH_LAG if last else None
        stop_at = None if budget is None else time.monotonic() + budget
        place = decode_cursor(position.token, position.page)
        await cursors.save(self._vault, self._tenant, feed, position)
        async for step in self._steps(by, place, known, report, connection):
            await self._keeping.page(step.page, known, report, full=full, since=since)
            if everybody:
                await self._mark_missing(step, report)
            if progress:
                progress(report.seen, _in_all(step, report))
            if step.following is None:
                break
            token, page = encode_cursor(step.following)
            await cursors.save(self._vault, self._tenant, feed, replace(position, token=token, page=page))
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return False
        if progress:
            progress(report.seen, report.seen)
        return True

    async def _steps(
        self,
        by: Field,
        place: ScanCursor | None,
        known: Mapping[tuple[str, str], ResolvedConnection],
        report: SyncReport,
        connection: str | None,
    ) -> AsyncIterator[ScanStep]:
        """Walk, past a millisecond too that more users share than Auth0 shows of one query."""

        async def ask(since: datetime | None, until: datetime | None, page: int) -> UserPage:
            return await self._auth0.users_by(
                by, since, until=until, page=page, connection=connection, totals=True
            )

        walk = KeysetScan(by, ask)
        while place is not None:
            try:
                async for step in walk.steps(place):
                    place = step.following
                    yield step
            except PagingWindowExceeded:
                if place is None or place.since is None:
                    raise
                await self._at(by, place.since, known, report)
                place = ScanCursor(place.since + MILLISECOND)

    async def _at(
        self,
        by: Field,
        moment: datetime,
        known: Mapping[tuple[str, str], ResolvedConnection],
        report: SyncReport,
    ) -> None:
        """Ask by id for everybody whose time is in one millisecond, the ids from an export of all users."""
        wanted = [
            user.user_id
            async for user in self._auth0.export.users(await self._auth0.export.create())
            if (at := user.created_at if by == "created_at" else user.updated_at) is not None
            and moment <= at < moment + MILLISECOND
        ]
        await self._keeping.ingest_by_id(wanted, known, report)
        report.seen += len(wanted)

    async def _mark_missing(self, step: ScanStep, report: SyncReport) -> None:
        """Mark whom the vault has and the walk was not shown, in a stretch of which it was shown everybody."""
        if step.stretch is None:
            return
        since, until = step.stretch
        now = await self._vault.now()
        report.gone += await missing.mark_time_range(
            self._vault,
            self._tenant,
            since=since,
            until=min(until or now, now - SEARCH_LAG),
            observed_users=step.shown,
            now=now,
        )


def _in_all(step: ScanStep, report: SyncReport) -> int | None:
    """How many users the walk will have seen, where Auth0 says how many remain."""
    return None if step.remaining is None else report.seen + max(0, step.remaining - step.page.size)
