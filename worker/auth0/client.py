"""The client of one tenant's Management API: what it offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from copy import copy
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import structlog

from worker.auth0 import event_stream, export_job, pagination, search_query, tenant_log
from worker.auth0 import stats as counting
from worker.auth0.credentials import Credentials
from worker.auth0.errors import Auth0Error, Auth0NotFound, MalformedAnswer, MissingScope
from worker.auth0.event_stream import StreamedEvent
from worker.auth0.export_job import ExportJobs
from worker.auth0.http import stream as streaming
from worker.auth0.http.calls import ApiCalls, mint_token
from worker.auth0.http.responses import Endpoint, api_error, consequence_without, read_error_code, read_json
from worker.auth0.http.retries import Clock, Retrier, RetryPolicy, Sleep, utc_now
from worker.auth0.http.timeouts import Timeouts
from worker.auth0.management_token import ManagementToken, SharedToken, TokenStore
from worker.auth0.models import Auth0Connection, Auth0User, UnreadableEntry, UserPage, read_page, read_user
from worker.auth0.ratelimit.budget import RateLimitBudget
from worker.auth0.stats import TenantCounts
from worker.auth0.tenant_log import LogEntry, LogPage

_log = structlog.get_logger(__name__)

USER_FIELDS = "user_id,identities,last_login,updated_at,created_at"


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
        retries: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        budget: RateLimitBudget | None = None,
    ) -> None:
        """Make a client; without a budget, only a 429 slows its calls. The budget is closed with it."""
        self._host = credentials.host
        self._is_urgent = False
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._sleep = sleep
        self._calls = ApiCalls(
            credentials,
            transport,
            Retrier(retries or RetryPolicy(), clock, sleep),
            self._timeouts,
            budget,
        )
        self._budget = budget
        self._token = SharedToken(store, lambda: mint_token(self._calls, credentials, clock), clock)

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
        """The same client, for work that somebody waits for: one pool, one token, precedence in the budget."""
        client = copy(self)
        client._is_urgent = True
        return client

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
        if _lacking(token, needed) and not self._token.has_minted:
            token = await self._token.get(instead_of=token)
        if token.scopes is None:
            _log.warning("auth0.scopes_unnamed", domain=self._host)
        if missing := _lacking(token, needed):
            self._token.forget()  # another process may share a better one by the next call
            raise MissingScope(missing, "; ".join(consequence_without(s, f"{s} is needed") for s in missing))

    async def user(self, user_id: str) -> Auth0User:
        """Return one user as of now; unlike lists, this is immediately consistent.

        Raises:
            Auth0NotFound: the tenant has no such user.
        """
        endpoint = self._endpoint("GET /api/v2/users/{id}", "read:users", "read_users", f"user {user_id!r}")
        path = f"/api/v2/users/{_segment(user_id, endpoint)}"
        raw = await self._get(endpoint, path, {"fields": USER_FIELDS, "include_fields": "true"})
        try:
            user = read_user(raw)
        except UnreadableEntry as error:
            raise MalformedAnswer(f"{endpoint}: {error}", status=200) from None
        if user.malformed:
            _log.warning("auth0.user_malformed", user_id=user.user_id, malformed=user.malformed)
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
        """Return a page of 100 users, ascending by a time; lists lag behind ``user`` (eventually consistent).

        Args:
            field: the time to order by.
            since: only users with this time or a later one; of both bounds, milliseconds count.
            until: only users with this time or an earlier one.
            page: the page from 0; ten can be seen of one query.
            connection: only users with an identity of this connection.
            totals: ask for the total as well.

        Raises:
            PagingWindowExceeded: Auth0 shows no such page of this query.
        """
        endpoint = self._users()
        query = search_query.ordered_by_time(field, since, until, connection)
        shown = {"page": str(page), "include_totals": str(totals).lower()}
        try:
            answer = await self._get(
                endpoint, "/api/v2/users", query | shown | pagination.page_parameters(USER_FIELDS)
            )
        except Auth0Error as error:
            raise pagination.explain_paging_error(error, endpoint, page) from None
        return read_page(*pagination.read_raw_users(answer, endpoint))

    async def users_with_identity(self, connection: str, provider_user_id: str) -> tuple[Auth0User, ...]:
        """Return whoever holds an identity, as the search knows it; it lags behind ``user``.

        A user some of whose identities cannot be read is returned as well: one of these may be it.
        """
        endpoint = self._users()
        if (query := search_query.by_identity(connection, provider_user_id)) is None:
            return ()
        answer = await self._get(
            endpoint, "/api/v2/users", query | {"page": "0"} | pagination.page_parameters(USER_FIELDS)
        )
        page = read_page(*pagination.read_raw_users(answer, endpoint))
        return search_query.filter_holders(page, connection, provider_user_id)

    async def logs(self, after: str, *, take: int = 100) -> LogPage:
        """Return the log's entries after one of them, in the log's own order, not in that of time.

        Args:
            after: the checkpoint of the page before, or a log id to begin with.
            take: how many at most, up to 100.

        Raises:
            Auth0LogGone: Auth0 refuses the checkpoint: its entry is past the log's retention.
        """
        endpoint = self._logs()
        response = await self._answer(endpoint, "/api/v2/logs", {"from": after, "take": str(take)})
        if response.status_code in tenant_log.GONE_STATUSES and not isinstance(
            api_error(response, endpoint), MalformedAnswer
        ):
            raise tenant_log.log_gone(endpoint, response)
        return tenant_log.read_log_page(
            self._good(response, endpoint), response.headers, endpoint, after, take
        )

    async def newest_log(self, before: datetime | None = None) -> LogEntry | None:
        """Return the newest entry of the log, or the newest before a time, to read on from; None where there is none."""
        endpoint = self._logs()
        query = {"sort": "date:-1", "page": "0", "per_page": "1"} | search_query.until_parameter(
            "date", before
        )
        return tenant_log.read_newest(await self._get(endpoint, "/api/v2/logs", query), endpoint)

    async def oldest_log(self) -> LogEntry | None:
        """Return the oldest entry that the log shows; None where the log is empty."""
        query = {"sort": "date:1", "page": "0", "per_page": "1"}
        return tenant_log.read_newest(await self._get(self._logs(), "/api/v2/logs", query), self._logs())

    def events(
        self, *, after: str | None, types: Sequence[str] = event_stream.EVENT_TYPES
    ) -> AsyncGenerator[StreamedEvent | None, None]:
        """Listen to what happens to users, until Auth0 closes the connection, breaks it or falls silent.

        That is ordinary: Auth0 recycles connections every few minutes. The caller connects again with the
        last id. Closing the generator ends the connection.

        Args:
            after: the id of the last event seen; None for what happens from now on.
            types: what to listen to.

        Yields:
            Events, ``offset-only`` ones among them, whose ids are worth keeping as well; None for a keep-alive.

        Raises:
            Auth0EventsGone: Auth0 cannot resume from this id.
            MissingScope: the application lacks ``read:events``.
        """
        endpoint = self._endpoint("GET /api/v2/events", "read:events")

        async def connect() -> httpx.Response:
            resumed = {"Last-Event-ID": after} if after else {}
            response = await self._answer(
                endpoint,
                "/api/v2/events",
                {"event_type": list(types)},
                stream=True,
                headers={"Accept": "text/event-stream"} | streaming.IDENTITY_ENCODING | resumed,
                timeout=self._timeouts.for_stream(),
            )
            if response.status_code == 410 or (after and response.status_code == 400):
                raise event_stream.events_gone(endpoint, response.status_code, read_error_code(response))
            return self._opened(response, endpoint)

        return event_stream.listen(connect, endpoint, after or "", self._timeouts.silence)

    @property
    def export(self) -> ExportJobs:
        """All users by an export job: a handful of calls, however many users there are.

        It shows the users as they were when the job ran, without tokens, in no order.
        """
        created = self._endpoint("POST /api/v2/jobs/users-exports", "read:users")
        looked = self._endpoint("GET /api/v2/jobs/{id}", "read:users", subject="export job")

        async def create(body: Mapping[str, Any]) -> Any:
            response = await self._answer(created, "/api/v2/jobs/users-exports", {}, json=body)
            return self._good(response, created)

        async def look(job: str) -> Any:
            return await self._get(looked, f"/api/v2/jobs/{_segment(job, looked)}", {})

        return ExportJobs(create, look, self._download, looked, self._sleep)

    async def counts(self) -> TenantCounts:
        """Count users, logins and connections, in two calls and one for each 100 connections."""
        stats = self._endpoint("GET /api/v2/stats/daily", "read:stats")
        users = await counting.count_users(self._get, self._users())
        connections = len([connection async for connection in self.connections()])
        return TenantCounts(
            users, await counting.count_logins_yesterday(self._get, stats, self._clock()), connections
        )

    def connections(self, *, strategy: str | None = None) -> AsyncGenerator[Auth0Connection, None]:
        """Go through the connections, of one strategy or all; unreadable ones are logged and left out."""
        return self._connections({"strategy": strategy} if strategy else {})

    async def connection(self, name: str) -> Auth0Connection:
        """Return the connection of this name.

        Raises:
            Auth0NotFound: the tenant has none.
        """
        async for connection in self._connections({"name": name}):
            if connection.name == name:
                return connection
        raise Auth0NotFound(f"{self._host} has no connection {name!r}")

    async def has_connection(self, connection_id: str) -> bool:
        """Whether the tenant has the connection of this id, readable or not."""
        endpoint = self._endpoint(
            "GET /api/v2/connections/{id}", "read:connections", "connections", f"connection {connection_id!r}"
        )
        path = f"/api/v2/connections/{_segment(connection_id, endpoint)}"
        try:
            await self._get(endpoint, path, {"fields": "name", "include_fields": "true"})
        except Auth0NotFound:
            return False
        return True

    def _connections(self, query: Mapping[str, str]) -> AsyncGenerator[Auth0Connection, None]:
        endpoint = self._endpoint("GET /api/v2/connections", "read:connections", "connections")

        async def page(checkpoint: Mapping[str, str]) -> Any:
            return await self._get(endpoint, "/api/v2/connections", {**query, **checkpoint})

        return pagination.list_connections(page, endpoint)

    def _users(self) -> Endpoint:
        return self._endpoint("GET /api/v2/users", "read:users", "read_users")

    def _logs(self) -> Endpoint:
        return self._endpoint("GET /api/v2/logs", "read:logs", "logs")

    def _endpoint(self, name: str, scope: str, group: str = "other", subject: str = "page") -> Endpoint:
        return Endpoint(name, self._host, subject, scope, group)

    async def _get(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> Any:
        return self._good(await self._answer(endpoint, path, query), endpoint)

    async def _download(self, location: str) -> httpx.Response:
        # Not a call to the tenant: no token goes there, and nothing of its budget is spent.
        request = self._calls.request("GET", location, headers=streaming.IDENTITY_ENCODING)
        return await self._calls.send_once(export_job.FILE, request, stream=True)

    async def _answer(
        self,
        endpoint: Endpoint,
        path: str,
        query: Mapping[str, Any],
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        async def send(token: ManagementToken) -> httpx.Response:
            def build() -> httpx.Request:
                sent = {**(headers or {}), "Authorization": f"Bearer {token.value.reveal()}"}
                method = endpoint.name.partition(" ")[0]
                return self._calls.request(method, path, params=query, headers=sent, **request)

            return await self._calls.send(endpoint, build, stream=stream, urgent=self._is_urgent)

        token = await self._token.get()
        response = await send(token)
        if response.status_code == 401:
            _log.warning("auth0.token_refused", domain=endpoint.host, endpoint=endpoint.name)
            response = await send(await self._token.get(instead_of=token))
        return response

    def _good(self, response: httpx.Response, endpoint: Endpoint) -> Any:
        return read_json(self._opened(response, endpoint), endpoint)

    def _opened(self, response: httpx.Response, endpoint: Endpoint) -> httpx.Response:
        if not response.is_success:
            error = api_error(response, endpoint)
            if isinstance(error, MissingScope):
                self._token.forget()
            raise error
        return response


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
