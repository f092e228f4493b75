"""The client of one tenant's Management API: what it offers."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import structlog

from worker.auth0 import paging
from worker.auth0.answers import SCOPES, Endpoint, api_error, body_of
from worker.auth0.budget import Budget
from worker.auth0.calls import Calls, mint
from worker.auth0.credentials import Credentials
from worker.auth0.management_token import ManagementToken, SharedToken, TokenStore
from worker.auth0.models import Connection, Unreadable, User, UserPage, read_user
from worker.auth0.pace import Clock, Pace, Retries, Sleep, utc_now
from worker.auth0.transport import Timeouts, Transport
from worker.errors import Auth0NotFound, MalformedAnswer, MissingScope

_log = structlog.get_logger(__name__)

USER_FIELDS = "user_id,identities,last_login,updated_at"


@dataclass(frozen=True)
class Counts:
    """A tenant in numbers.

    Attributes:
        logins_per_day: of the last whole day, UTC; None where the application lacks ``read:stats``.
    """

    users: int
    logins_per_day: int | None
    connections: int


class ManagementClient:
    """Reads users and connections of one tenant.

    Calls may run concurrently within one event loop; they share connections, the management token and the
    pause after a 429. Every method may raise:

    - ``Auth0Unreachable``: no answer, or 5xx, after the retries;
    - ``Auth0RateLimited``: 429, after waiting;
    - ``Auth0Refused``, ``MissingScope``, ``ConfigurationError``: the operator mends the set-up;
    - ``MalformedAnswer``: the answer is not what Auth0 documents.
    """

    def __init__(
        self,
        credentials: Credentials,
        store: TokenStore,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = utc_now,
        sleep: Sleep = asyncio.sleep,
        retries: Retries | None = None,
        timeouts: Timeouts | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Make a client; without a budget, only a 429 slows its calls. The budget is closed with it."""
        self._host = credentials.host
        self._calls = Calls(
            credentials,
            transport or Transport(),
            Pace(retries or Retries(), clock, sleep),
            timeouts or Timeouts(),
            budget,
        )
        self._budget = budget
        self._clock = clock
        self._urgent = False
        self._token = SharedToken(store, lambda: mint(self._calls, credentials, clock), clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._calls.aclose()
        if self._budget is not None:
            await self._budget.aclose()

    @property
    def urgent(self) -> ManagementClient:
        """The same client, whose calls come before others in the tenant's budget: somebody waits for them."""
        urgent = copy.copy(self)
        urgent._urgent = True
        return urgent

    async def scopes(self) -> frozenset[str] | None:
        """Return what the management token may do, minting one if needed; None where Auth0 does not say."""
        return (await self._token.get()).scopes

    async def require(self, *needed: str) -> None:
        """Make sure that the application holds these scopes: Auth0 leaves fields out without them, silently.

        Where the token lacks one, it is minted anew once in this client's life: the operator may have
        granted the scope since.

        Raises:
            MissingScope: naming those that are missing and what their absence breaks.
        """
        token = await self._token.get()
        if _lacking(token, needed) and not self._token.minted_here:
            token = await self._token.get(instead_of=token)
        if token.scopes is None:
            _log.warning("auth0.scopes_unnamed", domain=self._host)
        if missing := _lacking(token, needed):
            self._token.forget()  # another process may share a better one by the next call
            raise MissingScope(missing, "; ".join(SCOPES.get(s, f"{s} is needed") for s in missing))

    async def user(self, user_id: str) -> User:
        """Return one user as of now; unlike lists, this is immediately consistent.

        Raises:
            Auth0NotFound: the tenant has no such user.
        """
        endpoint = self._endpoint(
            "GET /api/v2/users/{id}", "read:users", f"user {user_id!r}", group="read_users"
        )
        path = f"/api/v2/users/{_segment(user_id, endpoint)}"
        raw = await self._get(endpoint, path, {"fields": USER_FIELDS, "include_fields": "true"})
        try:
            user = read_user(raw)
        except Unreadable as error:
            raise MalformedAnswer(f"{endpoint}: {error}", status=200) from None
        if user.malformed:
            _log.warning("auth0.user_malformed", user_id=user.user_id, malformed=user.malformed)
        return user

    def users(self, *, connection: str | None = None, start_page: int = 0) -> AsyncGenerator[UserPage, None]:
        """Page through the users, oldest first, while the next page is already on its way.

        A user who is deleted during the walk may move another past a page's edge: the next walk sees it.

        Args:
            connection: only users with an identity of this connection.
            start_page: the page of 100 to begin with.

        Raises:
            PagingWindowExceeded: Auth0 ended before the query's last user; all pages it gave were yielded.
        """
        endpoint = self._endpoint("GET /api/v2/users", "read:users", group="read_users")

        async def page(number: int) -> Any:
            return await self._get(
                endpoint, "/api/v2/users", paging.users_query(number, USER_FIELDS, connection)
            )

        return paging.user_pages(page, endpoint, start_page)

    def connections(self, *, strategy: str | None = None) -> AsyncGenerator[Connection, None]:
        """Go through the connections, of one strategy or all; unreadable ones are logged and left out."""
        return self._connections({"strategy": strategy} if strategy else {})

    async def connection(self, name: str) -> Connection:
        """Return the connection of this name.

        Raises:
            Auth0NotFound: the tenant has none.
        """
        async for connection in self._connections({"name": name}):
            if connection.name == name:
                return connection
        raise Auth0NotFound(f"{self._host} has no connection {name!r}")

    async def counts(self) -> Counts:
        """Count users, connections and the last whole day's logins, in three calls and one for each 100 connections.

        Source: Auth0 Management API v2, "Get daily stats" (scope ``read:stats``; days are UTC).
        """
        users = self._endpoint("GET /api/v2/users", "read:users", group="read_users")
        query = {"per_page": "1", "include_totals": "true", "fields": "user_id", "include_fields": "true"}
        shown = await self._get(users, "/api/v2/users", query)
        total = shown.get("total") if isinstance(shown, dict) else None
        if not isinstance(total, int):
            raise MalformedAnswer(f"{users}: the answer has no total", status=200)
        connections = [connection async for connection in self.connections()]
        return Counts(total, await self._logins_of_yesterday(), len(connections))

    async def _logins_of_yesterday(self) -> int | None:
        stats = self._endpoint("GET /api/v2/stats/daily", "read:stats")
        day = (self._clock() - timedelta(days=1)).strftime("%Y%m%d")
        try:
            days = await self._get(stats, "/api/v2/stats/daily", {"from": day, "to": day})
        except MissingScope:
            return None
        logins = (
            [entry.get("logins") for entry in days if isinstance(entry, dict)]
            if isinstance(days, list)
            else []
        )
        return sum(number for number in logins if isinstance(number, int))

    def _connections(self, query: Mapping[str, str]) -> AsyncGenerator[Connection, None]:
        endpoint = self._endpoint("GET /api/v2/connections", "read:connections", group="connections")

        async def page(checkpoint: Mapping[str, str]) -> Any:
            return await self._get(endpoint, "/api/v2/connections", {**query, **checkpoint})

        return paging.connections(page, endpoint)

    def _endpoint(self, name: str, scope: str, subject: str = "page", *, group: str = "other") -> Endpoint:
        return Endpoint(name, self._host, subject, scope, group)

    async def _get(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> Any:
        token = await self._token.get()
        response = await self._get_with(token, endpoint, path, query)
        if response.status_code == 401:
            _log.warning("auth0.token_refused", domain=endpoint.host, endpoint=endpoint.name)
            token = await self._token.get(instead_of=token)
            response = await self._get_with(token, endpoint, path, query)
        if response.status_code != 200:
            error = api_error(response, endpoint)
            if isinstance(error, MissingScope):
                self._token.forget()
            raise error
        return body_of(response, endpoint)

    async def _get_with(
        self, token: ManagementToken, endpoint: Endpoint, path: str, query: Mapping[str, str]
    ) -> httpx.Response:
        def build() -> httpx.Request:
            authorization = {"Authorization": f"Bearer {token.value.reveal()}"}
            return self._calls.request("GET", path, params=query, headers=authorization)

        return await self._calls.send(endpoint, build, urgent=self._urgent)


def _lacking(token: ManagementToken, needed: tuple[str, ...]) -> list[str]:
    return [] if token.scopes is None else [scope for scope in needed if scope not in token.scopes]


def _segment(user_id: str, endpoint: Endpoint) -> str:
    """Encode an id wholly, so that it is one path segment whatever it holds."""
    # These would name the list of users or leave it; no id of Auth0's looks so.
    if user_id in ("", ".", ".."):
        raise Auth0NotFound(f"{endpoint.host} has no {endpoint.subject}")
    try:
        return quote(user_id, safe="")
    except UnicodeEncodeError:
        raise Auth0NotFound(f"{endpoint.host} has no {endpoint.subject}") from None
