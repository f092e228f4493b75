"""Export reconciliation: a full sync by an export job.

For a large tenant it takes fewer calls than a full scan.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import ProgrammingError

from worker.auth0 import ManagementClient, export_job
from worker.auth0.errors import Auth0Error, Auth0RateLimited, Auth0Unreachable, MalformedAnswer, MissingScope
from worker.auth0.pagination import PER_PAGE
from worker.plural import pluralize
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.report import Progress, SyncReport
from worker.vault.sync_state import cursors, export_diff, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

EXPORT_FEED = "export"
# From this size a full scan has more pages than an export job needs polls, at most half an hour's.
MIN_USERS_FOR_EXPORT = 20_000
# An export is incomplete if it has a smaller share of the users of the last full sync.
MIN_CREDIBLE_SHARE = 0.5
# Users of an export that are sent to Postgres at a time.
USERS_PER_COPY = 1000
# Users read by id between two commits: after a kill, at most these are read again.
USERS_PER_COMMIT = 20


class ExportReconciler:
    """Compares the vault with an export, then syncs what differs.

    Args:
        tenant: the tenant's name.
        vault: stores the cursor and the users still to be synced.
        auth0: the tenant's Management API.
        ingest: reads users by id and stores them.
    """

    def __init__(self, tenant: str, vault: Vault, auth0: ManagementClient, ingest: SyncIngest) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._ingest = ingest

    async def run(
        self,
        cursor: SyncCursor | None,
        run_id: int,
        began: datetime,
        report: SyncReport,
        *,
        budget: float | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Begin or resume, until the end or the time limit.

        Args:
            cursor: where to resume; None to begin.
            run_id, began: the sync run that this is part of, and when it began.
            report: counts what is done; ``finished`` says whether the end was reached.
            budget: seconds after which it stops.
            progress: called after each step.

        Returns:
            False if a full scan must be made instead: it takes no more calls, or Auth0 makes no export.
        """
        stop_at = None if budget is None else time.monotonic() + budget
        last = await runs.last_complete(self._vault, self._tenant, "all")
        if last is None or (cursor is None and last[1] < MIN_USERS_FOR_EXPORT):
            return False
        try:
            if cursor is None:
                cursor = SyncCursor(await self._auth0.export.create(), run_id=run_id)
                await cursors.save(self._vault, self._tenant, EXPORT_FEED, cursor)
            if cursor.token is not None:
                report.finished = await self._is_job_done(cursor.token, began, budget)
                if not report.finished:
                    return True
                if not await self._compare(cursor.token, last, began, report, progress):
                    return await self._leave_to_scan(report, None)
                cursor = replace(cursor, token=None, page=report.seen)
                await cursors.save(self._vault, self._tenant, EXPORT_FEED, cursor)
        except Auth0RateLimited:
            raise
        except (Auth0Error, MissingScope) as error:  # the file's host, too, may be unreachable
            return await self._leave_to_scan(report, str(error))
        except ProgrammingError:
            return await self._leave_to_scan(
                report, "the database's role may not make temporary tables (GRANT TEMPORARY)"
            )
        report.seen = max(report.seen, cursor.page)
        if await self._sync_differing(report, stop_at, progress):
            await cursors.remove(self._vault, self._tenant, EXPORT_FEED)
        return True

    async def abandon(self) -> None:
        """Delete the cursor and the users still to sync."""
        await export_diff.delete_users_to_sync(self._vault, self._tenant)
        await cursors.remove(self._vault, self._tenant, EXPORT_FEED)

    async def _is_job_done(self, job: str, began: datetime, budget: float | None) -> bool:
        if budget is None:
            return True  # reading the file waits for the job
        if await self._auth0.export.is_done(job, max_seconds=budget):
            return True
        if await self._vault.now() - began > timedelta(seconds=export_job.MAX_JOB_SECONDS):
            raise Auth0Unreachable(
                f"an export is not done after {export_job.MAX_JOB_SECONDS / 60:.0f} minutes"
            )
        return False

    async def _compare(
        self,
        job: str,
        last: tuple[datetime, int],
        began: datetime,
        report: SyncReport,
        progress: Progress | None,
    ) -> bool:
        """Compare vault and export, and record which users differ.

        Returns:
            Whether reading these by id takes fewer calls than a full scan.
        """
        last_seen_at, last_seen = last

        async def batches() -> AsyncIterator[list[export_diff.Exported]]:
            batch: list[export_diff.Exported] = []
            async with aclosing(self._auth0.export.users(job)) as users:
                async for user in users:
                    batch.append((user.user_id, user.updated_at))
                    report.seen += 1
                    if len(batch) == USERS_PER_COPY:
                        yield batch
                        batch = []
                        if progress:
                            progress(report.seen, None)
            if report.seen < last_seen * MIN_CREDIBLE_SHARE:
                raise MalformedAnswer(
                    f"an export names {pluralize(report.seen, 'user')}, where {last_seen} were seen last"
                )
            yield batch

        report.seen, now = 0, await self._vault.now()
        compared = await export_diff.compare_export(
            self._vault,
            self._tenant,
            batches(),
            since=last_seen_at - SEARCH_LAG,
            until=began - SEARCH_LAG,
            now=now,
        )
        report.gone += compared.gone
        log.info("sync.exported", tenant=self._tenant, users=compared.users, wanted=compared.wanted,
                 gone=compared.gone)  # fmt: skip
        return compared.wanted <= compared.users / PER_PAGE

    async def _sync_differing(
        self, report: SyncReport, stop_at: float | None, progress: Progress | None
    ) -> bool:
        connections = await self._ingest.load_connections()
        remaining = await export_diff.count_users_to_sync(self._vault, self._tenant)
        while user_ids := await export_diff.list_users_to_sync(
            self._vault, self._tenant, limit=USERS_PER_COMMIT
        ):
            await self._ingest.ingest_by_id(user_ids, connections, report)
            await export_diff.delete_users_to_sync(self._vault, self._tenant, user_ids)
            remaining -= len(user_ids)
            if progress:
                progress(report.seen - remaining, report.seen)
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return False
        return True

    async def _leave_to_scan(self, report: SyncReport, problem: str | None) -> bool:
        """Leave the sync to a full scan."""
        if problem is not None:
            report.note(f"{problem}: all users are gone through instead")
        report.seen = 0
        await self.abandon()
        return False
