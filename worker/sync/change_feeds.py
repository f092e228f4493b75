"""Change feeds: the tenant log and events name changed users."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from worker import providers
from worker.auth0 import LogEntry, LogPage, ManagementClient, StreamedEvent
from worker.auth0.errors import (
    Auth0Error,
    Auth0EventsGone,
    Auth0LogGone,
    Auth0RateLimited,
    Auth0Unreachable,
    MissingScope,
)
from worker.auth0.http.responses import OPTIONAL_SCOPES
from worker.auth0.pagination import PER_PAGE
from worker.sync.ingest import SEARCH_LAG, SyncIngest
from worker.sync.report import SyncReport
from worker.vault.sync_state import cursors
from worker.vault.sync_state.cursors import SyncCursor
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# Events are collected for this long, so that many changes of one user cost one call.
COLLECT_SECONDS = 0.5

LOG_FEED, EVENT_FEED, UPDATED_SCAN = "log", "events", "updated"


class ChangeFeeds:
    """The feeds of one tenant.

    Args:
        tenant: the tenant's name.
        vault: stores the cursors.
        auth0: the tenant's Management API.
        ingest: reads the named users and stores them.
        retention: how long the tenant keeps its log.
    """

    def __init__(
        self, tenant: str, vault: Vault, auth0: ManagementClient, ingest: SyncIngest, *, retention: timedelta
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._ingest = ingest
        self._retention = retention

    async def prepare(self, report: SyncReport) -> bool:
        """Make sure that later changes will be found.

        Call it before any user is read.

        Returns:
            Whether the log can be read. If not, a scan by last change replaces it, and the report says so.
        """
        now = await self._vault.now()
        before = await cursors.load(self._vault, self._tenant, LOG_FEED)
        try:
            await self._require_optional("read:logs")
            if before is None or self._is_beyond_retention(before, now):
                await self._seed_log_cursor(before, now, report)
        except MissingScope as error:
            report.note(str(error))
            await self._schedule_scan(before.read_until if before and before.read_until else now)
            await cursors.remove(self._vault, self._tenant, LOG_FEED)
            return False
        except (Auth0Unreachable, Auth0RateLimited):
            raise
        except Auth0Error as error:
            await self._fall_back_to_scan(before, now, error, report)
            return False
        return True

    async def _fall_back_to_scan(
        self, cursor: SyncCursor | None, now: datetime, error: Auth0Error | MissingScope, report: SyncReport
    ) -> None:
        """Scan by last change instead of reading the log."""
        report.note(f"{error}: users who changed are looked for by the time of their last change")
        await self._schedule_scan(cursor.read_until if cursor and cursor.read_until else now)

    async def _require_optional(self, scope: str) -> None:
        """Check an optional scope, without minting a token for it.

        As it is optional, a tenant may lack it for good: minting would fail at each sync.

        Raises:
            MissingScope: it is not granted.
        """
        scopes = await self._auth0.scopes()
        if scopes is not None and scope not in scopes:
            raise MissingScope([scope], OPTIONAL_SCOPES[scope])

    def _is_beyond_retention(self, cursor: SyncCursor, now: datetime) -> bool:
        return cursor.read_until is None or now - cursor.read_until > self._retention

    async def _seed_log_cursor(self, before: SyncCursor | None, now: datetime, report: SyncReport) -> None:
        """Set the log's cursor to before the search lag.

        A scan by last change covers the time between the old cursor and the new one. The newest entry would be too
        late: the lists that are read next may not yet include changes that the log has already reported.
        """
        entry = await self._auth0.newest_log(before=now - SEARCH_LAG)
        if entry is None:  # the log has no older entry
            entry = await self._auth0.oldest_log()
            await self._ingest.ingest_by_id(
                entry.users if entry else (), await self._ingest.load_connections(), report
            )
        if before is not None:
            report.note(
                f"the tenant's log was last read at {before.read_until:%Y-%m-%d %H:%M}Z, and may not reach back so far: "
                "those who changed since are looked for by the time of their last change"
            )
            log.warning("sync.log_gap_found", tenant=self._tenant, read_until=before.read_until)
            await self._schedule_scan(before.read_until or now)
        token = None if entry is None else entry.log_id
        await cursors.save(self._vault, self._tenant, LOG_FEED, SyncCursor(token, read_until=now))

    async def _schedule_scan(self, since: datetime) -> None:
        """Schedule a scan of users who changed since then.

        A scan that is already scheduled begins earlier, and is kept.
        """
        if await cursors.load(self._vault, self._tenant, UPDATED_SCAN) is None:
            token = (since - SEARCH_LAG).isoformat()
            await cursors.save(self._vault, self._tenant, UPDATED_SCAN, SyncCursor(token))

    async def read_log(self, report: SyncReport, budget: float | None = None) -> bool:
        """Sync the users whom the log names since its cursor.

        Each page is committed with its cursor.

        Args:
            report: counts what is done.
            budget: seconds after which it stops.

        Returns:
            Whether the log can be read, as ``prepare`` says.

        Raises:
            Auth0Error: as the client does; pages read until then are committed.
        """
        cursor = await cursors.load(self._vault, self._tenant, LOG_FEED)
        connections = await self._ingest.load_connections()
        stop_at = None if budget is None else time.monotonic() + budget
        while cursor is not None:
            now = await self._vault.now()
            try:
                page = await self._read_page(cursor)
            except Auth0LogGone:
                await self._seed_log_cursor(cursor, now, report)
                return True
            except (Auth0Unreachable, Auth0RateLimited):
                raise
            except (Auth0Error, MissingScope) as error:
                await self._fall_back_to_scan(cursor, now, error, report)
                return False
            if page is None:
                return True
            report.failed += len(page.malformed)
            report.problems += page.malformed
            named = dict.fromkeys(
                user_id for entry in page.entries if may_change_tokens(entry) for user_id in entry.users
            )
            report.seen += len(named)
            await self._ingest.ingest_by_id(list(named), connections, report)
            has_more = len(page.entries) + len(page.malformed) >= PER_PAGE
            until = _covered_until(page, now) or cursor.read_until if has_more else now
            cursor = replace(cursor, token=page.after, read_until=until)
            await cursors.save(self._vault, self._tenant, LOG_FEED, cursor)
            if not has_more:
                return True
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return True
        return True

    async def _read_page(self, cursor: SyncCursor) -> LogPage | None:
        if cursor.token is not None:
            return await self._auth0.logs(cursor.token, take=PER_PAGE)
        if await self._auth0.newest_log() is None:
            return None
        raise Auth0LogGone("the log was empty when it was last looked at, and has begun since")

    async def follow(self, stop: asyncio.Event) -> None:
        """Sync the users whom events name, until ``stop``.

        It also ends when Auth0 closes the connection, every few minutes.

        Raises:
            MissingScope: events cannot be read.
            Auth0Error: as the client does.
        """
        cursor = await cursors.load(self._vault, self._tenant, EVENT_FEED) or SyncCursor()
        log.info("sync.follow_started", tenant=self._tenant)
        arrived: asyncio.Queue[StreamedEvent | None] = asyncio.Queue()
        listening = asyncio.create_task(self._enqueue_events(cursor.token, arrived))
        stopping = asyncio.create_task(stop.wait())
        ended = False
        try:
            while not ended and not stop.is_set():
                first = asyncio.create_task(arrived.get())
                await asyncio.wait({first, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not first.done():
                    first.cancel()
                    return
                events = [first.result(), *await self._collect(arrived)]
                await self._ingest_events([event for event in events if event is not None])
                ended = None in events
            if ended:  # otherwise the connection is open, and would delay the stop
                await listening
        finally:
            for task in (stopping, listening):
                task.cancel()
            await asyncio.gather(stopping, listening, return_exceptions=True)

    async def _enqueue_events(self, token: str | None, arrived: asyncio.Queue[StreamedEvent | None]) -> None:
        """Put events into the queue, then None at the end."""
        try:
            async for event in self._auth0.events(after=token):
                if event is not None:  # None is a keep-alive
                    arrived.put_nowait(event)
        except Auth0EventsGone:
            # The log names the same users as the events that were lost.
            log.warning("event_stream.expired", tenant=self._tenant)
            await cursors.remove(self._vault, self._tenant, EVENT_FEED)
        finally:
            arrived.put_nowait(None)

    async def _collect(self, arrived: asyncio.Queue[StreamedEvent | None]) -> list[StreamedEvent | None]:
        await asyncio.sleep(COLLECT_SECONDS)
        return [arrived.get_nowait() for _ in range(arrived.qsize())]

    async def _ingest_events(self, events: list[StreamedEvent]) -> None:
        if not events:
            return
        report = SyncReport(self._tenant, "events")
        named = dict.fromkeys(event.user_id for event in events if event.user_id)
        await self._ingest.ingest_by_id(list(named), await self._ingest.load_connections(), report)
        await cursors.save(self._vault, self._tenant, EVENT_FEED, SyncCursor(events[-1].id))
        log.info("sync.followed", tenant=self._tenant, events=len(events), users=len(named))


def may_change_tokens(entry: LogEntry) -> bool:
    """Whether an entry's users may have new tokens.

    A login with a strategy without tokens does not change any.
    """
    return entry.may_change_identities and not (
        entry.is_login and entry.strategy in providers.TOKENLESS_STRATEGIES
    )


def _covered_until(page: LogPage, now: datetime) -> datetime | None:
    """Return the time of a page's latest entry, if any."""
    dates = [entry.date for entry in page.entries if entry.date]
    return min(now, max(dates)) if dates else None
