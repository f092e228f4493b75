"""Keyset pagination: all users, ordered by a time.

Auth0 shows only the first 1,000 records of a query. So each step queries page 0 of the users from the last page's last
time on, inclusive. A user who is deleted meanwhile does not move others out of the next page, and a new user comes at
the end. Page numbers are used only within one millisecond that more users share than fit on a page.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from worker.auth0 import Auth0User, UserPage
from worker.auth0.errors import MalformedAnswer, PagingWindowExceeded
from worker.auth0.pagination import PER_PAGE
from worker.auth0.search_query import TimeField

MILLISECOND = timedelta(milliseconds=1)
# How often the pages of one millisecond are read again because a user was deleted meanwhile.
MAX_CLUSTER_RESTARTS = 5


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """How far a scan has come.

    Attributes:
        since: the time to continue from, inclusive; None for the beginning.
        page: 0 for the next users from that time on. Otherwise the number of a page, from 1: of the users who share the
            millisecond, or of all users if the tenant's search cannot filter by time.
    """

    since: datetime | None = None
    page: int = 0


@dataclass(frozen=True, slots=True)
class ScanStep:
    """One page of a scan.

    Attributes:
        page: the users, without those of the page before.
        shown: the ids of all users of the page.
        time_range: the range, from (inclusive) to (exclusive), None for an open end, of which the page shows all users;
            None if that is not known.
        following: where to continue; None at the end.
        remaining: the number of users from this page's first on; None if Auth0 does not say.
        asked_at: when the page was requested; it need not show later changes.
    """

    page: UserPage
    shown: tuple[str, ...]
    time_range: tuple[datetime | None, datetime | None] | None
    following: ScanCursor | None
    remaining: int | None
    asked_at: datetime


FetchPage = Callable[[datetime | None, datetime | None, int], Awaitable[UserPage]]
"""Reads one page of users from one time to another, both inclusive."""


class KeysetScan:
    """One scan, page by page.

    Args:
        field: the time by which users are ordered.
        fetch: reads one page.
        now: returns the time.
    """

    def __init__(self, field: TimeField, fetch: FetchPage, now: Callable[[], datetime]) -> None:
        self._field = field
        self._fetch = fetch
        self._now = now
        self._asked_at = now()
        self._edge_ids: set[str] = set()
        self._restarts = 0
        self._cluster_size: int | None = None

    async def steps(self, cursor: ScanCursor) -> AsyncGenerator[ScanStep, None]:
        """Continue from a cursor to the end.

        Raises:
            PagingWindowExceeded: more users share one millisecond than Auth0 shows; those that it shows were yielded.
            MalformedAnswer: Auth0 shows users without the time by which they were queried.
        """
        following: ScanCursor | None = cursor
        while following is not None:
            step = await self._fetch_step(following)
            yield step
            following = step.following

    async def _fetch_step(self, cursor: ScanCursor) -> ScanStep:
        self._asked_at = self._now()
        if cursor.page == 0:
            return await self._from_time(cursor)
        if cursor.since is None:
            return await self._numbered_page(cursor)
        return await self._within_millisecond(cursor, cursor.since)

    async def _from_time(self, cursor: ScanCursor) -> ScanStep:
        page = await self._fetch(cursor.since, None, 0)
        last, more = self._last_time(page), _has_more(page, 0)
        start = None if cursor.since is None else _floor_to_millisecond(cursor.since)
        if start is not None and any(self._is_before(user, start) for user in page.users):
            # The tenant's search ignores the time: this is the first page of all users.
            return self._make_step(page, None, ScanCursor(None, 2) if more else None)
        if more and last is None:
            if cursor.since is None:
                return self._make_step(page, None, ScanCursor(None, 2), page.total)
            raise MalformedAnswer(f"Auth0 shows users without {self._field}, by which they were asked for")
        following = None
        if more and last is not None:
            is_stuck = start is not None and _floor_to_millisecond(last) <= start
            following = ScanCursor(_floor_to_millisecond(last), 1 if is_stuck else 0)
        time_range = (cursor.since, _floor_to_millisecond(last) if more and last is not None else None)
        return self._make_step(page, time_range, following, page.total, edge=last)

    async def _within_millisecond(self, cursor: ScanCursor, since: datetime) -> ScanStep:
        """Fetch one page of the users of a millisecond."""
        page = await self._fetch(since, since + MILLISECOND, cursor.page - 1)
        if page.size == 0 and (page.total or 0) > (cursor.page - 1) * PER_PAGE:
            raise PagingWindowExceeded("Auth0 shows no more of those who share one millisecond")
        before, self._cluster_size = self._cluster_size, page.total
        if _has_more(page, cursor.page - 1):
            following = replace(cursor, page=cursor.page + 1)
        else:
            following = ScanCursor(since + MILLISECOND)
        if cursor.page > 1 and None not in (before, page.total) and page.total != before:
            # A user was deleted: another may have moved to a page that was already read.
            self._restarts += 1
            following = ScanCursor(since, 1) if self._restarts <= MAX_CLUSTER_RESTARTS else following
        elif following.page == 0:
            self._restarts = 0
        return self._make_step(page, None, following)

    async def _numbered_page(self, cursor: ScanCursor) -> ScanStep:
        """Fetch one page of all users, without search by time."""
        page = await self._fetch(None, None, cursor.page - 1)
        following = replace(cursor, page=cursor.page + 1) if _has_more(page, cursor.page - 1) else None
        return self._make_step(page, None, following)

    def _make_step(
        self,
        page: UserPage,
        time_range: tuple[datetime | None, datetime | None] | None,
        following: ScanCursor | None,
        remaining: int | None = None,
        *,
        edge: datetime | None = None,
    ) -> ScanStep:
        """Make a step, without the users of the last page.

        The users with this page's last time are remembered, as the next page shows them again.
        """
        shown = tuple(user.user_id for user in page.users)
        new = replace(page, users=tuple(user for user in page.users if user.user_id not in self._edge_ids))
        at = None if edge is None else _floor_to_millisecond(edge)
        self._edge_ids = {user.user_id for user in page.users if at is None or self._is_within(user, at)}
        return ScanStep(new, shown, time_range, following, remaining, self._asked_at)

    def _last_time(self, page: UserPage) -> datetime | None:
        return page.last_created_at if self._field == "created_at" else page.last_updated_at

    def _time_of(self, user: Auth0User) -> datetime | None:
        return user.created_at if self._field == "created_at" else user.updated_at

    def _is_within(self, user: Auth0User, millisecond: datetime) -> bool:
        time = self._time_of(user)
        return time is not None and millisecond <= time < millisecond + MILLISECOND

    def _is_before(self, user: Auth0User, millisecond: datetime) -> bool:
        time = self._time_of(user)
        return time is not None and time < millisecond


def _has_more(page: UserPage, number: int) -> bool:
    """Whether the query has more users after this page."""
    if page.size == 0:
        return False
    return page.size >= PER_PAGE if page.total is None else number * PER_PAGE + page.size < page.total


def _floor_to_millisecond(time: datetime) -> datetime:
    """Truncate a time as Auth0's search does."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def encode_cursor(cursor: ScanCursor) -> tuple[str | None, int]:
    """Return a cursor's token and page, as stored."""
    return (cursor.since.isoformat() if cursor.since else None), cursor.page


def decode_cursor(token: str | None, page: int) -> ScanCursor:
    """Return the cursor of a stored token and page."""
    return ScanCursor(datetime.fromisoformat(token).astimezone(UTC) if token else None, page)
