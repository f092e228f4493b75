"""``/v1/proxy/{connection}/{path}``: calls a provider for a user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import quote, unquote

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from token_vault.errors import ConfigurationError, VaultError
from token_vault.grant_key import GrantKey
from token_vault.read_records import SERVED, ReadRecord
from worker.api.callers import Caller
from worker.api.cors import allow_origins
from worker.api.parameters import named_account, named_user
from worker.api.problems import ApiProblem, of_error
from worker.api.proxy.call import ProxyCall
from worker.api.proxy.call_limits import HoldToTheEnd, held_by
from worker.api.proxy.forward import forward
from worker.api.proxy.request_body import RequestBody
from worker.api.proxy.user_tokens import UserTokens
from worker.api.reconnect import add_link
from worker.api.service import Service, service_of
from worker.proxy_rules import METHODS, TargetRefused, check_query, is_allowed, normalize_path
from worker.settings import ProxySettings

PREFIX = "/v1/proxy/"


def proxy_route(origins: Sequence[str]) -> Route:
    """Return the route, which browsers of these origins may call."""
    return Route(
        f"{PREFIX}{{connection}}/{{path:path}}",
        proxy,
        methods=sorted(METHODS),
        middleware=[*allow_origins(origins, METHODS), Middleware(HoldToTheEnd)],
    )


async def proxy(request: Request) -> Response:
    """Forward an allowed call with a user's token."""
    service = service_of(request)
    caller = await service.authentication.caller(request)
    user_id = caller.proxied_user(named_user(request))  # refuses callers before anything else is read
    connection, raw_path = _split(request)
    settings = service.settings.proxy.get(connection)
    if settings is None:
        raise ApiProblem("not-allowed", f"there is no table [proxy.{connection!r}]: the operator adds it")
    call = _call(request, settings, connection, raw_path)
    held_by(request.scope).enter_context(
        service.call_limits.place(connection, user_id if caller.is_user else None)
    )
    read = ReadRecord(
        user_id,
        connection,
        SERVED,
        tenant=await _tenant(service, settings, connection),
        account=named_account(request),
        request_id=request.scope["request_id"],
        consumer=_consumer_name(caller),
        source="api" if caller.is_user else "impersonation",
    )
    if not caller.is_user:
        await _check_impersonation(service, caller, read)
    tokens = UserTokens(service, read, None if caller.is_user else caller.consumer)
    body = RequestBody(
        request.stream(),
        max_bytes=settings.max_request_bytes,
        idle_seconds=settings.timeout,
        ends_at=call.ends_at,
        # RFC 9112, 6.3
        is_empty="content-length" not in request.headers and "transfer-encoding" not in request.headers,
    )
    try:
        return await forward(service.provider_session, settings, call, body, tokens)
    except VaultError as error:
        problem = of_error(error)
    raise await add_link(service, problem, read.tenant, user_id, connection)


def _consumer_name(caller: Caller) -> str:
    """Return the name that the audit records for the caller."""
    if caller.consumer is not None and not caller.is_user:
        return caller.consumer.name
    # No consumer's name has a colon.
    return f"proxy:{caller.token.client_id if caller.token else None}"


async def _check_impersonation(service: Service, caller: Caller, read: ReadRecord) -> None:
    """Refuse users and connections that the application may not read.

    Raises:
        ApiProblem: ``not-allowed``.
    """
    consumer = caller.consumer
    if consumer is not None and consumer.may_read(GrantKey(read.tenant or "", read.connection, read.user_id)):
        return
    await service.write_record(read._replace(outcome="AccessDenied", at=time.monotonic()), strict=False)
    raise ApiProblem(
        "not-allowed",
        f"the entry [consumers.{read.consumer}] does not allow users' tokens of connection {read.connection}",
    )


def _split(request: Request) -> tuple[str, bytes]:
    """Return the connection, and the path as it was sent."""
    raw: bytes = request.scope.get("raw_path") or b""
    if not raw.startswith(PREFIX.encode()):
        raise ApiProblem("bad-request", f"write {PREFIX} without encoding it")
    connection, slash, path = raw.removeprefix(PREFIX.encode()).partition(b"/")
    return unquote(connection.decode("latin-1")), slash + path


def _call(request: Request, settings: ProxySettings, connection: str, raw_path: bytes) -> ProxyCall:
    """Return the call, if the rules allow it.

    Raises:
        ApiProblem: ``not-allowed``, or ``bad-request`` if it is ambiguous.
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
    accepted = ",".join(request.headers.getlist("accept")).lower()
    if "upgrade" in request.headers or "text/event-stream" in accepted:
        raise ApiProblem("bad-request", "websockets and server-sent events are not forwarded: poll instead")
    # The HTTP client could not send values that are no UTF-8 unchanged.
    headers = [
        (name.decode("ascii"), value.decode())
        for name, value in request.headers.raw
        if name.isascii() and _is_utf8(value)
    ]
    return ProxyCall(
        connection,
        request.method,
        path,
        query,
        headers,
        prefix=f"{PREFIX}{quote(connection, safe='')}",
        ends_at=asyncio.get_running_loop().time() + settings.max_seconds,
    )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _tenant(service: Service, settings: ProxySettings, connection: str) -> str | None:
    """Return the tenant of a proxied connection.

    Raises:
        ConfigurationError: the settings have to name it, as there are several.
    """
    if settings.tenant is not None:
        return settings.tenant
    known = await service.tenants.known()
    if len(known) > 1:
        raise ConfigurationError(f"[proxy.{connection}] has to name its tenant: there are several")
    return known[0] if known else None
