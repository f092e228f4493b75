"""A walk through all users in the order of a time, which loses nobody while users come, change and go.

Auth0 shows only the first 1,000 records of a query. So each step asks for page 0 of those from the last time on, that
time included: who is deleted meanwhile moves nobody past a page's edge, and who is new comes at the end. Only where
more users share one millisecond than a page holds is there paging, within that millisecond alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from worker.auth0 import Auth0User, UserPage
from worker.auth0.errors import MalformedAnswer, PagingWindowExceeded
from worker.auth0.pagination import PER_PAGE

Field = Literal["created_at", "updated_at"]
MILLISECOND = timedelta(milliseconds=1)
# How often the pages of one millisecond are read again because somebody of them was deleted meanwhile.
MAX_CLUSTER_RESTARTS = 5


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """Where a walk is.

    Attributes:
        since: the time to go on from, inclusive; None for the beginning.
        page: 0 for the next users from there; above, the number of the page, counted from 1, of those who share
            the millisecond, or of all users where the tenant does not search by time.
    """

    since: datetime | None = None
    page: int = 0


@dataclass(frozen=True, slots=True)
class ScanStep:
    """One page of a walk.

    Attributes:
        page: the users, without those whom the page before has shown.
        shown: the ids of all who were shown.
        stretch: of which time everybody was shown: from (inclusive) and to (exclusive), None being open; None
            where nothing of the kind can be said.
        following: where to go on, None at the end.
        remaining: how many users there are from this page's first on, where Auth0 says so.
    """

    page: UserPage
    shown: tuple[str, ...]
    stretch: tuple[datetime | None, datetime | None] | None
    following: ScanCursor | None
    remaining: int | None


FetchPage = Callable[[datetime | None, datetime | None, int], Awaitable[UserPage]]
"""Asks for one page of users from one time to another, both inclusive."""


class KeysetScan:
    """One walk.

    Args:
        field: the time in whose order it goes.
        ask: gets one page.
    """

    def __init__(self, field: Field, ask: FetchPage) -> None:
        self._field = field
        self._ask = ask
        self._edge: set[str] = set()
        self._tries = 0
        self._shared: int | None = None

    async def steps(self, place: ScanCursor) -> AsyncIterator[ScanStep]:
        """Go on from a place to the end.

        Raises:
            PagingWindowExceeded: more users share one millisecond than Auth0 shows; all it showed were yielded.
            MalformedAnswer: Auth0 shows users without the time that they are asked for by.
        """
        following: ScanCursor | None = place
        while following is not None:
            step = await self._step(following)
            yield step
            following = step.following

    async def _step(self, place: ScanCursor) -> ScanStep:
        if place.page == 0:
            return await self._next(place)
        if place.since is None:
            return await self._numbered(place)
        return await self._within(place, place.since)

    async def _next(self, place: ScanCursor) -> ScanStep:
        page = await self._ask(place.since, None, 0)
        last, more = self._last(page), _has_more(page, 0)
        if place.since is not None and any(self._before(user, place.since) for user in page.users):
            # The query was not heeded: this is the first page of all.
            return self._made(page, None, ScanCursor(None, 2) if more else None)
        if more and last is None:
            if place.since is None:
                return self._made(page, None, ScanCursor(None, 2), page.total)
            raise MalformedAnswer(f"Auth0 shows users without {self._field}, by which they were asked for")
        following = None
        if more and last is not None:
            stands_still = place.since is not None and _floor(last) <= _floor(place.since)
            following = ScanCursor(_floor(last), 1 if stands_still else 0)
        stretch = (place.since, _floor(last) if more and last is not None else None)
        return self._made(page, stretch, following, page.total, edge=last)

    async def _within(self, place: ScanCursor, since: datetime) -> ScanStep:
        """One page of those who share a millisecond."""
        page = await self._ask(since, since + MILLISECOND, place.page - 1)
        if page.size == 0 and (page.total or 0) > (place.page - 1) * PER_PAGE:
            raise PagingWindowExceeded("Auth0 shows no more of those who share one millisecond")
        before, self._shared = self._shared, page.total
        if _has_more(page, place.page - 1):
            following = replace(place, page=place.page + 1)
        else:
            following = ScanCursor(since + MILLISECOND)
        if place.page > 1 and None not in (before, page.total) and page.total != before:
            # Who was deleted may have moved another past the edge of a page that was read.
            self._tries += 1
            following = ScanCursor(since, 1) if self._tries <= MAX_CLUSTER_RESTARTS else following
        elif following.page == 0:
            self._tries = 0
        return self._made(page, None, following)

    async def _numbered(self, place: ScanCursor) -> ScanStep:
        """One page of all users: for a tenant that does not search by time."""
        page = await self._ask(None, None, place.page - 1)
        following = replace(place, page=place.page + 1) if _has_more(page, place.page - 1) else None
        return self._made(page, None, following)

    def _made(
        self,
        page: UserPage,
        stretch: tuple[datetime | None, datetime | None] | None,
        following: ScanCursor | None,
        remaining: int | None = None,
        *,
        edge: datetime | None = None,
    ) -> ScanStep:
        """Put a step together, and remember who stands at its page's edge: the next page shows them again."""
        shown = tuple(user.user_id for user in page.users)
        new = replace(page, users=tuple(user for user in page.users if user.user_id not in self._edge))
        at = None if edge is None else _floor(edge)
        self._edge = {user.user_id for user in page.users if at is None or self._time(user) == at}
        return ScanStep(new, shown, stretch, following, remaining)

    def _last(self, page: UserPage) -> datetime | None:
        return page.last_created_at if self._field == "created_at" else page.last_updated_at

    def _time(self, user: Auth0User) -> datetime | None:
        time = user.created_at if self._field == "created_at" else user.updated_at
        return None if time is None else _floor(time)

    def _before(self, user: Auth0User, since: datetime) -> bool:
        time = self._time(user)
        return time is not None and time < _floor(since)


def _has_more(page: UserPage, number: int) -> bool:
    """Whether the query has more than was shown up to this page."""
    if page.size == 0:
        return False
    return page.size >= PER_PAGE if page.total is None else number * PER_PAGE + page.size < page.total


def _floor(time: datetime) -> datetime:
    """Auth0 searches by the millisecond."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def encode_cursor(place: ScanCursor) -> tuple[str | None, int]:
    """Write a place as it is stored."""
    return (place.since.isoformat() if place.since else None), place.page


def decode_cursor(mark: str | None, page: int) -> ScanCursor:
    """Read a stored place."""
    return ScanCursor(datetime.fromisoformat(mark).astimezone(UTC) if mark else None, page)
