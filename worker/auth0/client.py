"""The client of one tenant's Management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from copy import copy
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx
import structlog

from worker.auth0 import event_stream, export_job, pagination, search_query, stats, tenant_log
from worker.auth0.credentials import Credentials
from worker.auth0.endpoints import Endpoints, encode_segment
from worker.auth0.errors import Auth0Error, Auth0NotFound, MalformedAnswer
from worker.auth0.event_stream import StreamedEvent
from worker.auth0.export_job import ExportJobs
from worker.auth0.http.authorized import AuthorizedCalls
from worker.auth0.http.calls import ApiCalls, mint_token
from worker.auth0.http.responses import api_error, read_error_code
from worker.auth0.http.retries import Clock, Retrier, RetryPolicy, Sleep, utc_now
from worker.auth0.http.stream import IDENTITY_ENCODING
from worker.auth0.http.timeouts import Timeouts
from worker.auth0.management_token import SharedToken, TokenStore
from worker.auth0.models import Auth0Connection, Auth0User, UnreadableEntry, UserPage, read_page, read_user
from worker.auth0.ratelimit.budget import RateLimitBudget
from worker.auth0.stats import TenantCounts
from worker.auth0.tenant_log import LogEntry, LogPage

log = structlog.get_logger(__name__)

USER_FIELDS = "user_id,identities,last_login,updated_at,created_at"


class ManagementClient:
    """Reads users and connections of one tenant.

    Calls may run concurrently in one event loop; they share connections, the management token and the pause after a
    429. Every method may raise:

    - ``Auth0Unreachable``: no answer, or 5xx, after the retries;
    - ``Auth0RateLimited``: 429, after waiting;
    - ``Auth0Refused``, ``MissingScope``, ``ConfigurationError``: the operator has to fix the set-up;
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
        retries: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        budget: RateLimitBudget | None = None,
    ) -> None:
        """Make a client; closing it also closes the budget.

        Without a budget, only a 429 slows down its calls.
        """
        self._endpoints = Endpoints(credentials.host)
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._sleep = sleep
        self._budget = budget
        retrier = Retrier(retries or RetryPolicy(), clock, sleep)
        self._calls = ApiCalls(credentials, transport, retrier, self._timeouts, budget)
        token = SharedToken(store, lambda: mint_token(self._calls, credentials, clock), clock)
        self._api = AuthorizedCalls(self._calls, token)

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
        """The same client, with precedence in the rate limit budget.

        For work that somebody waits for. It shares connections and token.
        """
        client = copy(self)
        client._api = self._api.urgent
        return client

    @property
    def is_unlimited(self) -> bool:
        """Whether no rate limit is known for the calls."""
        return self._budget is None or self._budget.is_unlimited

    async def scopes(self) -> frozenset[str] | None:
        """Return the management token's scopes; None where unknown."""
        return await self._api.scopes()

    async def require(self, *needed: str) -> None:
        """Check that the application has these scopes.

        Without them Auth0 silently leaves out fields.

        Raises:
            MissingScope: it names the missing scopes, and what does not work without them.
        """
        await self._api.require_scopes(*needed)

    async def user(self, user_id: str) -> Auth0User:
        """Return one user's current state.

        Unlike lists, this is immediately consistent.

        Raises:
            Auth0NotFound: the tenant has no such user.
        """
        endpoint = self._endpoints.user(user_id)
        path = f"/api/v2/users/{encode_segment(user_id, endpoint)}"
        raw = await self._api.get(endpoint, path, {"fields": USER_FIELDS, "include_fields": "true"})
        try:
            user = read_user(raw)
        except UnreadableEntry as error:
            raise MalformedAnswer(f"{endpoint}: {error}", status=200) from None
        if user.malformed:
            log.warning("user.identities_skipped", user_id=user.user_id, malformed=user.malformed)
        return user

    async def users_by(
        self,
        field: search_query.TimeField,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        page: int = 0,
        connection: str | None = None,
        totals: bool = False,
    ) -> UserPage:
        """Return a page of 100 users, ordered by a time.

        Lists are eventually consistent: they lag behind ``user``.

        Args:
            field: the time to order by.
            since: only users with this time or a later one; both bounds are compared to the millisecond.
            until: only users with this time or an earlier one.
            page: the page from 0; Auth0 shows ten pages of a query.
            connection: only users with an identity of this connection.
            totals: also return the number of all users.

        Raises:
            PagingWindowExceeded: Auth0 shows no such page of this query.
        """
        endpoint = self._endpoints.users
        query = search_query.ordered_by_time(field, since, until, connection)
        query |= {"page": str(page), "include_totals": str(totals).lower()}
        query |= pagination.page_parameters(USER_FIELDS)
        try:
            answer = await self._api.get(endpoint, "/api/v2/users", query)
        except Auth0Error as error:
            raise pagination.explain_paging_error(error, endpoint, page) from None
        return read_page(*pagination.read_raw_users(answer, endpoint))

    async def users_with_identity(self, connection: str, provider_user_id: str) -> tuple[Auth0User, ...]:
        """Return the users who may hold an identity.

        The search lags behind ``user``. A user with unreadable identities is also returned, as one of these may be it.
        """
        endpoint = self._endpoints.users
        if (query := search_query.by_identity(connection, provider_user_id)) is None:
            return ()
        query |= {"page": "0"} | pagination.page_parameters(USER_FIELDS)
        answer = await self._api.get(endpoint, "/api/v2/users", query)
        page = read_page(*pagination.read_raw_users(answer, endpoint))
        return search_query.filter_holders(page, connection, provider_user_id)

    async def logs(self, after: str, *, take: int = 100) -> LogPage:
        """Return the log's entries after one, in the log's order.

        That is not the order of time.

        Args:
            after: the checkpoint of the previous page, or a log id to begin with.
            take: the most entries, up to 100.

        Raises:
            Auth0LogGone: Auth0 refuses the checkpoint, because its entry is past the log's retention.
        """
        endpoint = self._endpoints.logs
        response = await self._api.send(endpoint, "/api/v2/logs", {"from": after, "take": str(take)})
        if response.status_code in tenant_log.GONE_STATUSES and not isinstance(
            api_error(response, endpoint), MalformedAnswer
        ):
            raise tenant_log.log_gone(endpoint, response)
        answer = self._api.read(response, endpoint)
        return tenant_log.read_log_page(answer, response.headers, endpoint, after, take)

    async def newest_log(self, before: datetime | None = None) -> LogEntry | None:
        """Return the log's newest entry, before a time if given."""
        query = {"sort": "date:-1", "page": "0", "per_page": "1"}
        return await self._one_log_entry(query | search_query.until_parameter("date", before))

    async def oldest_log(self) -> LogEntry | None:
        """Return the log's oldest entry (None if it is empty)."""
        return await self._one_log_entry({"sort": "date:1", "page": "0", "per_page": "1"})

    async def _one_log_entry(self, query: Mapping[str, str]) -> LogEntry | None:
        endpoint = self._endpoints.logs
        return tenant_log.read_only_entry(await self._api.get(endpoint, "/api/v2/logs", query), endpoint)

    def events(
        self, *, after: str | None, types: Sequence[str] = event_stream.EVENT_TYPES
    ) -> AsyncGenerator[StreamedEvent | None, None]:
        """Yield events about users, until the connection ends.

        Auth0 ends connections every few minutes; then the caller connects again with the last id. Closing the generator
        ends the connection.

        Args:
            after: the id of the last event; None to begin now.
            types: the types of events.

        Yields:
            Events, including ``offset-only`` ones, whose ids have to be stored as well; None for a keep-alive.

        Raises:
            Auth0EventsGone: Auth0 cannot resume from this id.
            MissingScope: the application lacks ``read:events``.
        """
        endpoint = self._endpoints.events

        async def connect() -> httpx.Response:
            resumed = {"Last-Event-ID": after} if after else {}
            response = await self._api.send(
                endpoint,
                "/api/v2/events",
                {"event_type": list(types)},
                stream=True,
                headers={"Accept": "text/event-stream"} | IDENTITY_ENCODING | resumed,
                timeout=self._timeouts.for_stream(),
            )
            if response.status_code == 410 or (after and response.status_code == 400):
                raise event_stream.events_gone(endpoint, response.status_code, read_error_code(response))
            return self._api.require_success(response, endpoint)

        return event_stream.listen(connect, endpoint, after or "", self._timeouts.silence)

    @property
    def export(self) -> ExportJobs:
        """Export jobs, which list all users in few calls.

        An export has the users at the time of the job, without tokens, in no order.
        """
        creation, job_by_id = self._endpoints.new_export, self._endpoints.export_job

        async def create(body: Mapping[str, Any]) -> Any:
            response = await self._api.send(creation, "/api/v2/jobs/users-exports", {}, json=body)
            return self._api.read(response, creation)

        async def get(job: str) -> Any:
            return await self._api.get(job_by_id, f"/api/v2/jobs/{encode_segment(job, job_by_id)}", {})

        async def download(location: str) -> httpx.Response:
            # This is not a call to the tenant, so it has no token, and does not count against the budget.
            request = self._calls.request("GET", location, headers=IDENTITY_ENCODING)
            return await self._calls.send_once(export_job.FILE, request, stream=True)

        return ExportJobs(create, get, download, job_by_id, self._sleep)

    async def counts(self) -> TenantCounts:
        """Count users, logins and connections.

        It takes two calls, and one for each 100 connections.
        """
        users = await stats.count_users(self._api.get, self._endpoints.users)
        connections = len([connection async for connection in self.connections()])
        logins = await stats.count_logins_yesterday(self._api.get, self._endpoints.daily_stats, self._clock())
        return TenantCounts(users, logins, connections)

    def connections(self, *, strategy: str | None = None) -> AsyncGenerator[Auth0Connection, None]:
        """Yield the connections, of one strategy or all.

        Unreadable ones are logged and left out.
        """
        return self._list_connections({"strategy": strategy} if strategy else {})

    async def connection(self, name: str) -> Auth0Connection:
        """Return the connection of this name.

        Raises:
            Auth0NotFound: the tenant has none.
        """
        async for connection in self._list_connections({"name": name}):
            if connection.name == name:
                return connection
        raise Auth0NotFound(f"{self._endpoints.host} has no connection {name!r}")

    async def has_connection(self, connection_id: str) -> bool:
        """Whether the tenant has a connection, readable or not."""
        endpoint = self._endpoints.connection(connection_id)
        path = f"/api/v2/connections/{encode_segment(connection_id, endpoint)}"
        try:
            await self._api.get(endpoint, path, {"fields": "name", "include_fields": "true"})
        except Auth0NotFound:
            return False
        return True

    def _list_connections(self, query: Mapping[str, str]) -> AsyncGenerator[Auth0Connection, None]:
        endpoint = self._endpoints.connections

        async def get_page(checkpoint: Mapping[str, str]) -> Any:
            return await self._api.get(endpoint, "/api/v2/connections", {**query, **checkpoint})

        return pagination.list_connections(get_page, endpoint)
