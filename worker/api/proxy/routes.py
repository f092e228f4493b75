"""``/v1/proxy/{connection}/{path}``: calls providers for users."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote, unquote

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from token_vault import AsyncTokenVault
from token_vault.errors import ConfigurationError, VaultError
from token_vault.read_records import ReadRecord
from token_vault.token import Token
from worker.api.callers import Caller
from worker.api.problems import ApiProblem, of_error
from worker.api.proxy.forward import ProxyCall, forward
from worker.api.proxy.request_body import RequestBody
from worker.api.reconnect import add_link
from worker.api.service import Service, service_of
from worker.proxy_rules import METHODS, TargetRefused, check_query, is_allowed, normalize_path
from worker.settings import ProxySettings

PREFIX = "/v1/proxy/"

# Which of a user's accounts is meant, where there are several.
ACCOUNT_HEADER = "x-token-vault-account"

# For which a browser need not ask again what it may send.
PREFLIGHT_SECONDS = 600

# For a refresh on demand; the provider's own time comes on top.
TOKEN_WAIT_SECONDS = 5.0


class _UserTokens:
    """One user's token of one connection, fresh and recorded."""

    def __init__(self, service: Service, caller: Caller, read: ReadRecord) -> None:
        self._service = service
        self._read = replace(read, user_id=caller.user_id(), consumer=_name(caller), source="api")
        self._last: Token | None = None

    async def current(self) -> str:
        """Return a fresh token."""
        reader = self._service.reader(self._read.tenant)
        self._last = await self._recorded(reader, TOKEN_WAIT_SECONDS)
        return self._last.value

    async def replace(self) -> str:
        """Return another, as the provider refused the last."""
        reader = await self._reject()
        return (await self._recorded(reader, TOKEN_WAIT_SECONDS)).value

    async def report_rejected(self) -> None:
        """Have another made for the next call."""
        with suppress(VaultError):  # the call itself has its answer
            await self._reject()

    async def _reject(self) -> AsyncTokenVault:
        """Reject the token, unless it was replaced meanwhile."""
        reader = self._service.reader(self._read.tenant, refreshing=True)
        found = await self._token(reader, 0)
        if self._last is not None and found.value == self._last.value:
            await reader.rejected(found)
        return reader

    async def _recorded(self, reader: AsyncTokenVault, wait: float) -> Token:
        outcome = "cancelled"
        try:
            token = await self._token(reader, wait)
            outcome = "served"
        except VaultError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._service.recorder.record(replace(self._read, outcome=outcome, at=time.monotonic()))
        return token

    async def _token(self, reader: AsyncTokenVault, wait: float) -> Token:
        read = self._read
        return await reader.user_token(read.user_id, read.connection, account=read.account, wait=wait)


def _name(caller: Caller) -> str:
    # No consumer's name has a colon.
    return f"proxy:{caller.token.client_id if caller.token else None}"


def proxy_route(origins: Sequence[str]) -> Route:
    """Return the route, open to browsers of these origins alone."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=sorted(METHODS),
        allow_headers=["*"],
        expose_headers=["location", "etag", "link", "retry-after", "x-request-id"],
        max_age=PREFLIGHT_SECONDS,
    )
    return Route(
        f"{PREFIX}{{connection}}/{{path:path}}",
        proxy,
        methods=sorted(METHODS),
        middleware=[cors] if origins else [],
    )


async def proxy(request: Request) -> Response:
    """Forward an allowed call with the calling user's token."""
    service = service_of(request)
    caller = await service.authentication.caller(request)
    caller.user_id()  # a user's token, or nothing else is looked at
    connection, raw_path = _split(request)
    settings = service.settings.proxy.get(connection)
    if settings is None:
        raise ApiProblem("not-allowed", f"there is no table [proxy.{connection!r}]: the operator adds it")
    call = _call(request, settings, connection, raw_path)
    read = ReadRecord(
        "",
        connection,
        "",
        tenant=_tenant(service, settings, connection),
        account=request.headers.get(ACCOUNT_HEADER) or None,
        request_id=request.scope["request_id"],
    )
    tokens = _UserTokens(service, caller, read)
    body = RequestBody(request.stream(), max_bytes=settings.max_request_bytes, idle_seconds=settings.timeout)
    try:
        return await forward(service.provider_session, settings, call, body, tokens)
    except VaultError as error:
        problem = of_error(error)
    raise await add_link(service, problem, read.tenant, caller.user_id(), connection)


def _split(request: Request) -> tuple[str, bytes]:
    """Return the connection, and the path as it came."""
    raw: bytes = request.scope.get("raw_path") or b""
    if not raw.startswith(PREFIX.encode()):
        raise ApiProblem("bad-request", f"write {PREFIX} without encoding it")
    connection, slash, path = raw.removeprefix(PREFIX.encode()).partition(b"/")
    return unquote(connection.decode("latin-1")), slash + path


def _call(request: Request, settings: ProxySettings, connection: str, raw_path: bytes) -> ProxyCall:
    """Return the call, where the rules allow it.

    Raises:
        ApiProblem: ``not-allowed``, or ``bad-request`` where it is ambiguous.
    """
    try:
        path = normalize_path(raw_path)
        query = check_query(request.scope["query_string"])
    except TargetRefused as error:
        raise ApiProblem("bad-request", f"not forwarded: {error}") from None
    if not is_allowed(settings.allow, request.method, path):
        raise ApiProblem(
            "not-allowed",
            f"no rule of [proxy.{connection!r}] allows this method and path: the operator adds one",
        )
    if "upgrade" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        raise ApiProblem("bad-request", "websockets and server-sent events are not forwarded: poll instead")
    # What is no UTF-8 could not be sent as it came.
    headers = [
        (name.decode("ascii"), value.decode())
        for name, value in request.headers.raw
        if name.isascii() and _is_utf8(value)
    ]
    return ProxyCall(
        connection, request.method, path, query, headers, f"{PREFIX}{quote(connection, safe='')}"
    )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _tenant(service: Service, settings: ProxySettings, connection: str) -> str | None:
    """Return the tenant whose grants are meant.

    Raises:
        ConfigurationError: nobody said which.
    """
    if settings.tenant is not None:
        return settings.tenant
    if len(service.tenants) > 1:
        raise ConfigurationError(f"[proxy.{connection}] has to name its tenant: there are several")
    return service.tenants[0] if service.tenants else None
