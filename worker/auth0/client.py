"""The client of one tenant's Management API: what it offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import structlog

from worker.auth0 import events, exporting, paging, tenant_log
from worker.auth0.answers import Endpoint, api_error, body_of, without
from worker.auth0.calls import Calls, mint
from worker.auth0.credentials import Credentials
from worker.auth0.events import Event
from worker.auth0.exporting import ExportedUser
from worker.auth0.management_token import ManagementToken, SharedToken, TokenStore
from worker.auth0.models import Connection, Unreadable, User, UserPage, read_user
from worker.auth0.pace import Clock, Pace, Retries, Sleep, utc_now
from worker.auth0.paging import PER_PAGE
from worker.auth0.tenant_log import LogEntry, LogPage
from worker.auth0.transport import Timeouts, Transport
from worker.errors import (
    Auth0Error,
    Auth0EventsGone,
    Auth0LogGone,
    Auth0NotFound,
    Auth0Unreachable,
    MalformedAnswer,
    MissingScope,
    PagingWindowExceeded,
)

# A stream that says nothing for so long, in seconds, is given up.
SILENCE = 120.0

_log = structlog.get_logger(__name__)


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
    ) -> None:
        self._host = credentials.host
        self._loopback = credentials.base_url.startswith("http://")
        self._sleep = sleep
        self._calls = Calls(
            credentials,
            transport or Transport(),
            Pace(retries or Retries(), clock, sleep),
            timeouts or Timeouts(),
        )
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
            raise MissingScope(missing, "; ".join(without(scope) for scope in missing))

    async def user(self, user_id: str) -> User:
        """Return one user as of now; unlike lists, this is immediately consistent.

        Raises:
            Auth0NotFound: the tenant has no such user.
        """
        endpoint = self._endpoint("GET /api/v2/users/{id}", "read:users", f"user {user_id!r}")
        path = f"/api/v2/users/{_segment(user_id, endpoint)}"
        raw = await self._get(endpoint, path, {"fields": paging.USER_FIELDS, "include_fields": "true"})
        try:
            user = read_user(raw)
        except Unreadable as error:
            raise MalformedAnswer(f"{endpoint}: {error}", status=200) from None
        if user.malformed:
            _log.warning("auth0.user_malformed", user_id=user.user_id, malformed=user.malformed)
        return user

    async def users_by(
        self,
        by: paging.Field,
        since: datetime | None = None,
        *,
        until: datetime | None = None,
        page: int = 0,
        connection: str | None = None,
    ) -> UserPage:
        """Return one page of users in the order of a time; eventually consistent.

        Args:
            by: the time.
            since, until: both inclusive, to the millisecond; None for no bound.
            page: of 100 users.
            connection: only users with an identity of this connection.

        Raises:
            PagingWindowExceeded: Auth0 shows no page so far into a query.
        """
        endpoint = self._endpoint("GET /api/v2/users", "read:users")
        query = paging.users_query(by, since, until, page, connection)
        try:
            return paging.users_in(await self._get(endpoint, "/api/v2/users", query), endpoint)
        except Auth0Error as error:
            if error.code != "invalid_paging":
                raise
        raise PagingWindowExceeded(
            f"{endpoint}: Auth0 shows no page {page} of one query; more users than it shows share one millisecond",
            status=400,
            code="invalid_paging",
        )

    async def users_with_identity(self, connection: str, provider_user_id: str) -> tuple[User, ...]:
        """Return the users who have an identity; eventually consistent."""
        endpoint = self._endpoint("GET /api/v2/users", "read:users")
        query = paging.identity_query(connection, provider_user_id)
        return paging.users_in(await self._get(endpoint, "/api/v2/users", query), endpoint).users

    async def log_after(self, log_id: str) -> LogPage:
        """Return the entries of the tenant's log that follow one, at most 100.

        Raises:
            Auth0LogGone: the log does not reach back so far.
        """
        endpoint = self._endpoint("GET /api/v2/logs", "read:logs")
        query = {"from": log_id, "take": str(PER_PAGE)}
        try:
            response = await self._response(endpoint, "/api/v2/logs", query)
        except Auth0Error as error:
            if error.status not in (400, 404, 410):
                raise
            gone = error
        else:
            return tenant_log.read_log(body_of(response, endpoint), response, log_id, endpoint)
        raise Auth0LogGone(
            f"{endpoint}: the log does not reach back to where it was read",
            status=gone.status,
            code=gone.code,
        )

    async def newest_log(self) -> LogEntry | None:
        """Return the newest entry of the tenant's log, None where it is empty."""
        endpoint = self._endpoint("GET /api/v2/logs", "read:logs")
        query = {"sort": "date:-1", "per_page": "1", "page": "0"}
        answer = await self._get(endpoint, "/api/v2/logs", query)
        entries = answer.get("logs") if isinstance(answer, dict) else answer
        if not isinstance(entries, list):
            raise MalformedAnswer(f"{endpoint}: the answer has no list of log entries", status=200)
        return tenant_log.read_entry(entries[0]) if entries else None

    async def events(self, *, after: str | None) -> AsyncGenerator[Event, None]:
        """Yield what happens to users as it happens, until Auth0 ends the connection, as it does every few minutes.

        Args:
            after: the id of the last event that was seen; None for what comes from now on.

        Raises:
            Auth0EventsGone: the events do not reach back so far.
        """
        endpoint = self._endpoint("GET /api/v2/events", "read:events")
        token = await self._token.get()
        headers = {"Authorization": f"Bearer {token.value.reveal()}", "Accept": "text/event-stream"}
        query = {"event_type": events.TYPES} | ({"from": after} if after else {})
        request = self._calls.request("GET", "/api/v2/events", params=query, headers=headers)
        async with self._calls.stream(endpoint, request, silence=SILENCE) as response:
            if response.status_code == 401:
                await self._token.get(instead_of=token)  # for the caller's next try
                raise Auth0Unreachable(f"{endpoint}: the token had ended", status=401)
            if response.status_code == 410:
                raise Auth0EventsGone(f"{endpoint}: the events do not reach back so far", status=410)
            if response.status_code != 200:
                raise api_error(response, endpoint)
            async for event in events.read_events(response.aiter_lines(), after):
                if event.type == "error":
                    raise Auth0Unreachable(f"{endpoint}: Auth0 ended the events with an error")
                yield event

    async def export_users(self) -> AsyncGenerator[ExportedUser, None]:
        """Go through all users of the tenant by one job, ids and times alone.

        Raises:
            Auth0Error: the job failed, or its result cannot be read.
        """
        endpoint = self._endpoint("POST /api/v2/jobs/users-exports", "read:users")
        job = await self._post(endpoint, "/api/v2/jobs/users-exports", exporting.JOB)
        reading = self._endpoint("GET /api/v2/jobs/{id}", "read:users", "export job")
        path = f"/api/v2/jobs/{_segment(exporting.job_id(job, endpoint), reading)}"
        for wait in exporting.waits():
            location = exporting.location(job := await self._get(reading, path, {}), reading)
            if location is not None:
                break
            await self._sleep(wait)
        else:
            raise Auth0Unreachable(f"{reading}: the export job does not end")
        request = self._calls.request("GET", exporting.checked(location, self._loopback, reading), headers={})
        async with self._calls.stream(reading, request, silence=SILENCE) as response:
            if response.status_code != 200:
                raise Auth0Unreachable(f"{reading}: its result is not given out", status=response.status_code)
            async for user in exporting.read_export(response.aiter_raw(), reading):
                yield user

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

    def _connections(self, query: Mapping[str, str]) -> AsyncGenerator[Connection, None]:
        endpoint = self._endpoint("GET /api/v2/connections", "read:connections")

        async def page(checkpoint: Mapping[str, str]) -> Any:
            return await self._get(endpoint, "/api/v2/connections", {**query, **checkpoint})

        return paging.connections(page, endpoint)

    def _endpoint(self, name: str, scope: str, subject: str = "page") -> Endpoint:
        return Endpoint(name, self._host, subject, scope)

    async def _get(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> Any:
        return body_of(await self._response(endpoint, path, query), endpoint)

    async def _post(self, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        token = await self._token.get()

        def build() -> httpx.Request:
            authorization = {"Authorization": f"Bearer {token.value.reveal()}"}
            return self._calls.request("POST", path, json=dict(body), headers=authorization)

        response = await self._calls.send(endpoint, build)
        if response.status_code not in (200, 201):
            raise api_error(response, endpoint)
        return body_of(response, endpoint)

    async def _response(self, endpoint: Endpoint, path: str, query: Mapping[str, str]) -> httpx.Response:
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
        return response

    async def _get_with(
        self, token: ManagementToken, endpoint: Endpoint, path: str, query: Mapping[str, str]
    ) -> httpx.Response:
        def build() -> httpx.Request:
            authorization = {"Authorization": f"Bearer {token.value.reveal()}"}
            return self._calls.request("GET", path, params=query, headers=authorization)

        return await self._calls.send(endpoint, build)


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
