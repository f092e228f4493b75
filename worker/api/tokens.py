"""The routes that read tokens."""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from token_vault import AsyncTokenVault, Token
from token_vault.errors import VaultError
from token_vault.grant_key import GrantKey
from token_vault.read_flow import REJECTED_SECONDS
from worker.api.body import read_body
from worker.api.parameters import TokenParameters, user_of
from worker.api.problems import NO_STORE, ApiProblem, of_error
from worker.api.reconnect import add_link
from worker.api.service import Service, service_of
from worker.consumer_rules import ConsumerRules
from worker.vault.db.errors import explained
from worker.vault.grants import queries

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 65_536
# A user has one grant for each linked identity, so nobody has so many.
MAX_GRANTS = 1000
# With JSONResponse's options; that one makes a new encoder for each answer.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class TokenRead:
    """One read for one consumer.

    Attributes:
        wanted: the token that the consumer asks for.
        tenant: its name; None if the vault has no grants yet.
    """

    service: Service
    consumer: ConsumerRules
    wanted: TokenParameters
    tenant: str | None
    request_id: str

    async def token(self, reader: AsyncTokenVault) -> Token:
        """Read the token.

        Raises:
            VaultError: as ``AsyncTokenVault.user_token``.
            ApiProblem: ``not-allowed``: the consumer may not ask for so long a life.
        """
        wanted, began = self.wanted, time.monotonic()
        if not wanted.min_ttl or self.consumer.refresh:
            return await self._read(reader, wanted.min_ttl, wanted.wait)
        # Nearly always the current token lives long enough, which one query shows.
        token = await self._read(reader, 0, wanted.wait)
        if seconds_left(token) >= wanted.min_ttl:
            return token
        left = max(0.0, wanted.wait - (time.monotonic() - began))
        token = await self._read(reader, await self._allowed_min_ttl(wanted.min_ttl), left)
        if seconds_left(token) < wanted.min_ttl:
            raise ApiProblem(
                "not-allowed",
                "a token is replaced in the second half of its life at the earliest: ask for less min_ttl, or the "
                f"operator sets refresh = true in [consumers.{self.consumer.name}]",
            )
        return token

    async def _read(self, reader: AsyncTokenVault, min_ttl: float | None, wait: float) -> Token:
        wanted = self.wanted
        if wanted.user_id:
            return await reader.user_token(
                wanted.user_id,
                wanted.connection,
                account=wanted.account,
                resource=wanted.resource,
                scopes=wanted.scopes,
                min_ttl=min_ttl,
                wait=wait,
                needs=wanted.needs,
                request_id=self.request_id,
            )
        return await reader.admin_token(
            wanted.connection,
            resource=wanted.resource,
            scopes=wanted.scopes,
            min_ttl=min_ttl,
            wait=wait,
            needs=wanted.needs,
            request_id=self.request_id,
        )

    async def _allowed_min_ttl(self, min_ttl: float) -> float:
        """Limit the life, in seconds, that is asked for.

        At most half the life of a new token. The database limits readers with a role of their own in the same way.
        """
        async with explained():
            half = await queries.shortest_half_life(
                self.service.database, self.tenant, self.wanted.user_id, self.wanted.connection
            )
        return min_ttl if half is None else min(min_ttl, half)

    async def record(self, outcome: str, token: Token | None = None) -> None:
        """Record the read for the audit.

        Raises:
            TemporarilyUnavailable: it cannot be recorded, and the consumer's audit is strict.
        """
        await self.service.record(
            self.consumer,
            user_id=self.wanted.user_id,
            connection=self.wanted.connection,
            outcome=outcome,
            tenant=token.tenant if token else self.tenant,
            account=token.account if token else self.wanted.account,
            request_id=self.request_id,
            reason=self.wanted.reason,
        )


async def get_token(request: Request) -> Response:
    """Answer with a fresh token."""
    consumer = (await service_of(request).authentication.caller(request)).reading()
    read = await _begin(request, consumer)
    return await _answer(read, refreshing=False)


async def refresh_token(request: Request) -> Response:
    """Have a token replaced, and answer with the new one."""
    consumer = (await service_of(request).authentication.caller(request)).refreshing()
    read = await _begin(request, consumer)
    return await _answer(read, refreshing=True)


async def reject_token(request: Request) -> Response:
    """Accept the report that an API refused a token."""
    service = service_of(request)
    consumer = (await service.authentication.caller(request)).reading()
    refused = await _refused_token(request)
    read = await _begin(request, consumer)
    current = await _find_current(read, refused)
    if current is not None:
        reader = service.reader(read.tenant, refreshing=True)
        await reader.rejected(current, request_id=read.request_id)
        await read.record("rejected", current)
    return JSONResponse({"replacing": current is not None}, 202, headers=NO_STORE)


async def _find_current(read: TokenRead, refused: str) -> Token | None:
    """Return the current token if it is this one."""
    # What was rejected once is read by all others until it is replaced, so several may report it. Their reader may have
    # a cache that lags behind: what it does not know is looked for in the vault.
    for refreshing in (False, True):
        reader = read.service.reader(read.tenant, refreshing=refreshing)
        current = await replace(read, wanted=replace(read.wanted, min_ttl=None, wait=0)).token(reader)
        if hmac.compare_digest(current.value.encode(), refused.encode()):
            return current
    return None


async def list_grants(request: Request) -> Response:
    """List a user's grants that the consumer may read.

    Without tokens.
    """
    service = service_of(request)
    consumer = (await service.authentication.caller(request)).reading()
    if request.query_params:
        raise ApiProblem("bad-request", "this takes no parameters")
    user_id = user_of(request)
    async with explained():
        tenants = consumer.tenants or await service.tenants.known()
        rows = await queries.list_grants(
            service.database, tenants, queries.GrantFilter(user_id=user_id, is_served=True), limit=MAX_GRANTS
        )
    grants = [
        _grant(row)
        for row in rows
        if row["state"] != "erased" and consumer.may_read(GrantKey(row["tenant"], row["connection"], user_id))
    ]
    return JSONResponse({"user_id": user_id, "grants": grants}, headers=NO_STORE)


async def _begin(request: Request, consumer: ConsumerRules) -> TokenRead:
    """Check that the consumer may read this, before any look-up.

    Raises:
        ApiProblem: ``not-allowed`` or ``bad-request``.
    """
    service, wanted = service_of(request), TokenParameters.of(request)
    tenant = await service.tenants.choose(consumer, wanted.tenant)
    read = TokenRead(service, consumer, wanted, tenant, request.scope["request_id"])
    if not consumer.may_read(GrantKey(tenant or "", wanted.connection, wanted.user_id)):
        await read.record("AccessDenied")
        whose = "users' tokens" if wanted.user_id else "admin tokens"
        raise ApiProblem(
            "not-allowed",
            f"the entry [consumers.{consumer.name}] does not allow {whose} of connection {wanted.connection}",
        )
    return read


async def _answer(read: TokenRead, *, refreshing: bool) -> Response:
    try:
        token = await (_refreshed(read) if refreshing else read.token(read.service.reader(read.tenant)))
    except (VaultError, ApiProblem) as error:
        await read.record(type(error).__name__)
        if isinstance(error, VaultError):
            raise await _with_links(read, of_error(error)) from None
        raise
    await read.record("served", token)
    document = _JSON.encode(_document(read, token)).encode()
    return Response(document, media_type="application/json", headers=NO_STORE)


async def _refreshed(read: TokenRead) -> Token:
    """Have the current token replaced; return the new one.

    A token younger than a minute is returned as it is, so that nobody can make the vault call a provider more often.
    """
    reader = read.service.reader(read.tenant, refreshing=True)
    began = time.monotonic()
    token = await read.token(reader)
    if token.target.is_default and await _is_new(read, token):
        return token
    log.info("refresh.requested", connection=read.wanted.connection)
    await reader.rejected(token, request_id=read.request_id)
    left = max(0.0, read.wanted.wait - (time.monotonic() - began))
    new = await replace(read, wanted=replace(read.wanted, wait=left)).token(reader)
    read.service.forget(new)
    return new


async def _is_new(read: TokenRead, token: Token) -> bool:
    async with explained():
        age = await queries.renewal_age(read.service.database, token.grant_id or 0)
    return age is not None and age < REJECTED_SECONDS


async def _with_links(read: TokenRead, problem: ApiProblem) -> ApiProblem:
    """Add the grant's user and connection, and the reconnect link."""
    wanted = read.wanted
    problem.members.setdefault("user_id", wanted.user_id or None)
    problem.members.setdefault("connection", wanted.connection)
    return await add_link(read.service, problem, read.tenant, wanted.user_id, wanted.connection)


async def _refused_token(request: Request) -> str:
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        value = json.loads(body)["access_token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        value = None
    if not isinstance(value, str) or not value:
        raise ApiProblem("bad-request", 'the body is JSON: {"access_token": "…"}, the token that was refused')
    return value.encode("utf-8", "replace").decode()


def seconds_left(token: Token) -> float:
    """Return for how many seconds a token is still valid.

    0 if its end is unknown.
    """
    return (token.expires_at - datetime.now(UTC)).total_seconds() if token.expires_at else 0.0


def _document(read: TokenRead, token: Token) -> dict[str, Any]:
    expires = token.expires_at
    return {
        "token_type": "Bearer",
        "access_token": token.value,
        "expires_at": expires.astimezone(UTC).isoformat() if expires else None,
        "expires_in": max(0, int(seconds_left(token))) if expires else None,
        "scopes": list(token.scopes) if token.scopes is not None else None,
        "connection": read.wanted.connection,
        "user_id": read.wanted.user_id or None,
        "account": token.account or None,
        "extra": dict(token.extra),
    }


def _grant(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "connection": row["connection"],
        "account": row["provider_user_id"],
        "tenant": row["tenant"],
        "state": row["state"],
        "reason": row["reason"],
        "since": _iso(row["reason_since"]) if row["reason"] else None,
        "expires_at": _iso(row["expires_at"]),
        "scopes": row["scopes"],
    }


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat() if at else None
