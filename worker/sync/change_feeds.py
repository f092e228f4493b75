"""Keeping up with a tenant without asking for everybody: its log and its events name whom to ask for."""

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

# Events are gathered for so long, in seconds, so that many changes of one user cost one call.
GATHER_SECONDS = 0.5

LOG_FEED, EVENT_FEED, UPDATED_SCAN = "log", "events", "updated"


class ChangeFeeds:
    """The feeds of one tenant.

    Args:
        tenant: the tenant's name.
        vault: has how far each is read.
        auth0: the tenant's Management API.
        keeping: asks for the users that are named.
        retention: how long the tenant keeps its log.
    """

    def __init__(
        self, tenant: str, vault: Vault, auth0: ManagementClient, keeping: SyncIngest, *, retention: timedelta
    ) -> None:
        self._tenant = tenant
        self._vault = vault
        self._auth0 = auth0
        self._keeping = keeping
        self._retention = retention

    async def begin(self, report: SyncReport) -> bool:
        """Make sure that whatever changes from now on will be seen, before anybody is asked for.

        Returns:
            Whether the log can be read. Where it cannot, a walk by change stands in for it, and the report says so.
        """
        now = await self._vault.now()
        before = await cursors.load(self._vault, self._tenant, LOG_FEED)
        try:
            await self._allowed("read:logs")
            if before is None or self._is_past(before, now):
                await self._seed(before, now, report)
        except MissingScope as without:
            report.note(str(without))
            await self._walk_from(before.read_until if before and before.read_until else now)
            await cursors.remove(self._vault, self._tenant, LOG_FEED)
            return False
        except (Auth0Unreachable, Auth0RateLimited):
            raise
        except Auth0Error as refused:
            await self._do_without(before, now, refused, report)
            return False
        return True

    async def _do_without(
        self, position: SyncCursor | None, now: datetime, refused: Auth0Error, report: SyncReport
    ) -> None:
        """A log that cannot be read costs no token: those who changed since it was read are walked through."""
        report.note(f"{refused}: users who changed are looked for by the time of their last change")
        await self._walk_from(position.read_until if position and position.read_until else now)

    async def _allowed(self, scope: str) -> None:
        """As ``require``, but without a token minted for it each time: the scope is not needed.

        Raises:
            MissingScope: it is not granted.
        """
        scopes = await self._auth0.scopes()
        if scopes is not None and scope not in scopes:
            raise MissingScope([scope], OPTIONAL_SCOPES[scope])

    def _is_past(self, position: SyncCursor, now: datetime) -> bool:
        return position.read_until is None or now - position.read_until > self._retention

    async def _seed(self, before: SyncCursor | None, now: datetime, report: SyncReport) -> None:
        """Go to where the log was a little while ago; what lies in between is left to a walk by change.

        Not to its newest entry: the lists that are read next may not show yet what the log has told already.
        """
        entry = await self._auth0.newest_log(before=now - SEARCH_LAG)
        if entry is None:  # a log that has only begun
            entry = await self._auth0.oldest_log()
            await self._keeping.ingest_by_id(
                entry.users if entry else (), await self._keeping.load_connections(), report
            )
        if before is not None:
            report.note(
                f"the tenant's log was last read at {before.read_until:%Y-%m-%d %H:%M}Z, and may not reach back so far: "
                "those who changed since are looked for by the time of their last change"
            )
            log.warning("sync.log_gap_found", tenant=self._tenant, read_until=before.read_until)
            await self._walk_from(before.read_until or now)
        mark = None if entry is None else entry.log_id
        await cursors.save(self._vault, self._tenant, LOG_FEED, SyncCursor(mark, read_until=now))

    async def _walk_from(self, moment: datetime) -> None:
        """Have the next walk by change begin there, unless one is to begin earlier."""
        if await cursors.load(self._vault, self._tenant, UPDATED_SCAN) is None:
            mark = (moment - SEARCH_LAG).isoformat()
            await cursors.save(self._vault, self._tenant, UPDATED_SCAN, SyncCursor(mark))

    async def read_log(self, report: SyncReport, budget: float | None = None) -> bool:
        """Ask for the users whom the log names since it was last read, page by page, until the time is up.

        Args:
            budget: seconds.

        Returns:
            Whether the log can be read, as ``begin`` does.

        Raises:
            Auth0Error: as the client does; pages read until then are committed.
        """
        position = await cursors.load(self._vault, self._tenant, LOG_FEED)
        known = await self._keeping.load_connections()
        stop_at = None if budget is None else time.monotonic() + budget
        while position is not None:
            now = await self._vault.now()
            try:
                page = await self._page(position)
            except Auth0LogGone:
                await self._seed(position, now, report)
                return True
            except (Auth0Unreachable, Auth0RateLimited):
                raise
            except Auth0Error as refused:
                await self._do_without(position, now, refused, report)
                return False
            if page is None:
                return True
            report.failed += len(page.malformed)
            report.problems += page.malformed
            named = dict.fromkeys(
                user_id for entry in page.entries if _tells(entry) for user_id in entry.users
            )
            report.seen += len(named)
            await self._keeping.ingest_by_id(list(named), known, report)
            more = len(page.entries) + len(page.malformed) >= PER_PAGE
            until = _newest(page, now) or position.read_until if more else now
            position = replace(position, token=page.after, read_until=until)
            await cursors.save(self._vault, self._tenant, LOG_FEED, position)
            if not more:
                return True
            if stop_at is not None and time.monotonic() > stop_at:
                report.finished = False
                return True
        return True

    async def _page(self, position: SyncCursor) -> LogPage | None:
        if position.token is not None:
            return await self._auth0.logs(position.token, take=PER_PAGE)
        if await self._auth0.newest_log() is None:
            return None
        raise Auth0LogGone("the log was empty when it was last looked at, and has begun since")

    async def follow(self, stop: asyncio.Event) -> None:
        """Ask for the users whom the tenant's events name, as they come, until the connection ends or ``stop``.

        Raises:
            MissingScope: events cannot be read.
            Auth0Error: as the client does.
        """
        position = await cursors.load(self._vault, self._tenant, EVENT_FEED) or SyncCursor()
        log.info("sync.follow_started", tenant=self._tenant)
        arrived: asyncio.Queue[StreamedEvent | None] = asyncio.Queue()
        listening = asyncio.create_task(self._listen(position.token, arrived))
        stopping = asyncio.create_task(stop.wait())
        ended = False
        try:
            while not ended and not stop.is_set():
                first = asyncio.create_task(arrived.get())
                await asyncio.wait({first, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not first.done():
                    first.cancel()
                    return
                events = [first.result(), *await self._gathered(arrived)]
                await self._ask_for([event for event in events if event is not None])
                ended = None in events
            if ended:  # else the connection stands, and would be waited for after a stop
                await listening
        finally:
            for task in (stopping, listening):
                task.cancel()
            await asyncio.gather(stopping, listening, return_exceptions=True)

    async def _listen(self, mark: str | None, arrived: asyncio.Queue[StreamedEvent | None]) -> None:
        """Put events into the queue, and None at the end, however it comes."""
        try:
            async for event in self._auth0.events(after=mark):
                if event is not None:  # which would only tell that the connection lives
                    arrived.put_nowait(event)
        except Auth0EventsGone:
            # The log names whom these events would have named.
            log.warning("event_stream.expired", tenant=self._tenant)
            await cursors.remove(self._vault, self._tenant, EVENT_FEED)
        finally:
            arrived.put_nowait(None)

    async def _gathered(self, arrived: asyncio.Queue[StreamedEvent | None]) -> list[StreamedEvent | None]:
        await asyncio.sleep(GATHER_SECONDS)
        return [arrived.get_nowait() for _ in range(arrived.qsize())]

    async def _ask_for(self, events: list[StreamedEvent]) -> None:
        if not events:
            return
        report = SyncReport(self._tenant, "events")
        named = dict.fromkeys(event.user_id for event in events if event.user_id)
        await self._keeping.ingest_by_id(list(named), await self._keeping.load_connections(), report)
        await cursors.save(self._vault, self._tenant, EVENT_FEED, SyncCursor(events[-1].id))
        log.info("sync.followed", tenant=self._tenant, events=len(events), users=len(named))


def _tells(entry: LogEntry) -> bool:
    """Whether to ask for the users of an entry: not after a login that brings no provider's tokens."""
    return entry.may_change_identities and not (
        entry.is_login and entry.strategy in providers.TOKENLESS_STRATEGIES
    )


def _newest(page: LogPage, now: datetime) -> datetime | None:
    """Up to when a page reaches that has others after it; None where no entry says."""
    dates = [entry.date for entry in page.entries if entry.date]
    return min(now, max(dates)) if dates else None
