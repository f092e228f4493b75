"""Reconciles a large tenant by an export of its users, where that takes fewer calls than a walk."""

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
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.report import Progress, SyncReport
from worker.vault.sync_state import cursors, export_diff, runs
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

EXPORT_FEED = "export"
# So many users take more pages than the looks at a job that takes half an hour.
MIN_USERS_FOR_EXPORT = 20_000
# An export of fewer than this share of the users seen last is not believed.
MIN_CREDIBLE_SHARE = 0.5
# So many lines of an export are given to Postgres at a time.
USERS_PER_COMPARE = 1000
# Between two commits so many users are asked for by id: a kill repeats these at the most.
USERS_PER_COMMIT = 20


class ExportReconciler:
    """Compares the vault with an export of one tenant's users, and asks by id for those who differ.

    Args:
        tenant: the tenant's name.
        vault: where it is committed how far this has come.
        auth0: the tenant's Management API.
        keeping: asks for users and keeps them.
    """

    def __init__(self, tenant: str, vault: Vault, auth0: ManagementClient, keeping: SyncIngest) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._keeping = keeping

    async def run(
        self,
        position: SyncCursor | None,
        run_id: int,
        began: datetime,
        report: SyncReport,
        *,
        budget: float | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Begin, or go on from a position, to the end or until the time is up, which ``report.finished`` says.

        Args:
            run_id, began: the run that this is part of, and when it began.
            budget: seconds.
            progress: called after each step.

        Returns:
            False where a walk is to be made instead: it takes no more calls, or Auth0 makes no export.
        """
        stop_at = None if budget is None else time.monotonic() + budget
        last = await runs.last_complete(self._vault, self._tenant, "all")
        if last is None or (position is None and last[1] < MIN_USERS_FOR_EXPORT):
            return False
        try:
            if position is None:
                position = SyncCursor(await self._auth0.export.create(), run_id=run_id)
                await cursors.save(self._vault, self._tenant, EXPORT_FEED, position)
            if position.token is not None:
                report.finished = await self._is_done(position.token, began, budget)
                if not report.finished:
                    return True
                if not await self._compare(position.token, last, began, report, progress):
                    return await self._leave(report, None)
                position = replace(position, token=None, page=report.seen)
                await cursors.save(self._vault, self._tenant, EXPORT_FEED, position)
        except Auth0RateLimited:
            raise
        except (Auth0Error, MissingScope) as problem:  # the file's host, too, may be out of reach
            return await self._leave(report, str(problem))
        except ProgrammingError:
            return await self._leave(
                report, "the database's role may not make temporary tables (GRANT TEMPORARY)"
            )
        report.seen = max(report.seen, position.page)
        if await self._ask(report, stop_at, progress):
            await cursors.remove(self._vault, self._tenant, EXPORT_FEED)
        return True

    async def drop(self) -> None:
        """Give up what was begun."""
        await export_diff.delete_users_to_sync(self._vault, self._tenant)
        await cursors.remove(self._vault, self._tenant, EXPORT_FEED)

    async def _is_done(self, job: str, began: datetime, budget: float | None) -> bool:
        if budget is None:
            return True  # it is waited for where it is read
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
        """Compare the vault with the export; returns whether asking for those who differ is worth it."""
        seen_at, many = last

        async def lines() -> AsyncIterator[list[export_diff.Exported]]:
            gathered: list[export_diff.Exported] = []
            async with aclosing(self._auth0.export.users(job)) as users:
                async for user in users:
                    gathered.append((user.user_id, user.updated_at))
                    report.seen += 1
                    if len(gathered) == USERS_PER_COMPARE:
                        yield gathered
                        gathered = []
                        if progress:
                            progress(report.seen, None)
            if report.seen < many * MIN_CREDIBLE_SHARE:
                raise MalformedAnswer(f"an export names {report.seen} users, where {many} were seen last")
            yield gathered

        report.seen, now = 0, await self._vault.now()
        compared = await export_diff.compare_export(
            self._vault, self._tenant, lines(), since=seen_at - SEARCH_LAG, until=began - SEARCH_LAG, now=now
        )
        report.gone += compared.gone
        log.info("sync.exported", tenant=self._tenant, users=compared.users, wanted=compared.wanted,
                 gone=compared.gone)  # fmt: skip
        return compared.wanted <= compared.users / PER_PAGE

    async def _ask(self, report: SyncReport, stop_at: float | None, progress: Progress | None) -> bool:
        known = await self._keeping.load_connections()
        left = await export_diff.count_users_to_sync(self._vault, self._tenant)
        while user_ids := await export_diff.list_users_to_sync(
            self._vault, self._tenant, limit=USERS_PER_COMMIT
        ):
            await self._keeping.ingest_by_id(user_ids, known, report)
            await export_diff.delete_users_to_sync(self._vault, self._tenant, user_ids)
            left -= len(user_ids)
            if progress:
                progress(report.seen - left, report.seen)
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return False
        return True

    async def _leave(self, report: SyncReport, problem: str | None) -> bool:
        """Leave it to a walk."""
        if problem is not None:
            report.note(f"{problem}: all users are gone through instead")
        report.seen = 0
        await self.drop()
        return False
