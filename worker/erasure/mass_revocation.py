"""Revokes many grants' tokens after a leak (RFC 7009).

First readers are refused. Then the providers are called, each as fast as it answers. The list of grants still to revoke
is in Postgres.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from token_vault.errors import CannotDecrypt, ConfigurationError
from token_vault.secret import Secret
from worker.providers import Client, Provider
from worker.providers.answer import retry_after
from worker.renewal.concurrency import MAX_CALLS_PER_CONNECTION
from worker.renewal.http import Answer, HttpClient, send
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.vault.revocations import revocations
from worker.vault.revocations.revocations import Revocation, Scope
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# After so many failed calls a grant is listed as not revoked.
MAX_ATTEMPTS = 6
# Other runs do not call for a grant within this time. After a kill the next run waits for its end.
CLAIM_TIME = timedelta(seconds=30)
# Before the second call; doubled each time. Together half a minute, as an operator is waiting.
FIRST_RETRY_SECONDS = 1.0
# Between two looks for grants that can be called for: others are still in a renewal, or wait for their next call.
POLL_SECONDS = 0.5

# By RFC 7009 §2.2 a provider answers 200 for an unknown token; some answer 400 with these codes.
_UNKNOWN_TOKEN = ("invalid_token", "invalid_grant", "token_revoked", "token_expired")
_CLIENT_REFUSED = ("invalid_client", "unauthorized_client")


@dataclass(frozen=True, slots=True)
class RevocationReport:
    """The result of a mass revocation.

    Attributes:
        requested: number of grants that readers are refused since this run.
        revoked: number of grants whose provider has revoked them.
        not_revoked: the others, each with the reason.
    """

    requested: int
    revoked: int
    not_revoked: list[dict[str, Any]]


@dataclass(slots=True)
class _Pace:
    """How many calls of one connection may run concurrently.

    At first one. Each answer doubles the number, each failure halves it. If the provider asks for a pause, all wait.

    Attributes:
        client_refused: the code with which the provider has refused the client, if it has.
        not_before: when calls may be made again, by the event loop's clock.
    """

    capacity: int = 1
    client_refused: str | None = None
    not_before: float = 0.0

    def grow(self) -> None:
        self.capacity = min(self.capacity * 2, MAX_CALLS_PER_CONNECTION)

    def shrink(self, wait: float | None) -> None:
        self.capacity = max(self.capacity // 2, 1)
        if wait is not None:
            self.not_before = max(self.not_before, asyncio.get_running_loop().time() + wait)


class _Retry(Exception):  # not an error: the call is repeated later
    """The provider did not give an answer of its own."""

    def __init__(self, code: str, wait: float | None = None) -> None:
        self.code, self.wait = code, wait
        super().__init__(code)


@dataclass(slots=True)
class MassRevocation:
    """Revokes the tokens of one scope.

    Attributes:
        vault: has the grants.
        connections: resolves each connection's OAuth client.
        http: the client that ``renewal.http`` makes.
        scope: which grants to revoke.
        progress: called with the numbers of grants done and in total.
    """

    vault: Vault
    connections: ConnectionResolver
    http: HttpClient
    scope: Scope
    progress: Callable[[int, int], None] = lambda _done, _total: None
    _done: int = field(default=0, init=False)
    _revoked: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    async def run(self) -> RevocationReport:
        """Refuse readers, then revoke grant by grant.

        After a kill, the next run with the same scope continues.

        Raises:
            CopiedVault: the vault is a copy; the tokens are the original's.
        """
        await self.vault.check_location()
        requested = await revocations.request(self.vault, self.scope, now=await self.vault.now())
        pending = await revocations.count_pending(self.vault, self.scope)
        self._total = sum(pending.values())
        known = await self.connections.load(list(self.scope.tenants))
        async with asyncio.TaskGroup() as group:
            for key in pending:
                group.create_task(self._revoke_connection(*key, known.get(key)))
        unproven = await revocations.list_not_revoked(self.vault, self.scope)
        return RevocationReport(requested, self._revoked, unproven)

    async def _revoke_connection(self, tenant: str, name: str, resolved: ResolvedConnection | None) -> None:
        pace, scope = _Pace(), Scope([tenant], self.scope.user_id, name)
        while await revocations.count_pending(self.vault, scope):
            now = await self.vault.now()
            await revocations.take_released(self.vault, [tenant], now=now)
            claimed = await revocations.claim(
                self.vault, scope, tenant, name, now=now, until=now + CLAIM_TIME, limit=pace.capacity
            )
            if not claimed:
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.gather(*(self._revoke(each, resolved, pace) for each in claimed))
            await asyncio.sleep(max(0.0, pace.not_before - asyncio.get_running_loop().time()))

    async def _revoke(self, revocation: Revocation, resolved: ResolvedConnection | None, pace: _Pace) -> None:
        try:
            code = pace.client_refused or await self._end_tokens(revocation, resolved, pace)
        except _Retry as retry:
            pace.shrink(retry.wait)
            if revocation.attempts + 1 < MAX_ATTEMPTS:
                wait = retry.wait or FIRST_RETRY_SECONDS * 2**revocation.attempts
                next_at = await self.vault.now() + timedelta(seconds=wait)
                await revocations.postpone(self.vault, revocation, retry.code, next_at=next_at)
                return
            code = retry.code
        now = await self.vault.now()
        await revocations.finish(self.vault, revocation, code, now=now)
        self._done += 1
        self._revoked += code is None
        self.progress(self._done, self._total)
        if code is not None:
            log.warning(
                "revocation.listed",
                grant=revocation.grant_id,
                connection=revocation.key.connection,
                code=code,
            )

    async def _end_tokens(
        self, revocation: Revocation, resolved: ResolvedConnection | None, pace: _Pace
    ) -> str | None:
        """Revoke both tokens; return a code on failure.

        The refresh token first, as it can get new access tokens.
        """
        client = resolved.client if resolved else None
        provider = resolved.provider if resolved else None
        if client is None or provider is None:
            return "no_client"
        if client.revocation_url is None:
            return "no_revocation_url"
        ended_at = revocation.access_expires_at
        is_over = ended_at is not None and ended_at <= await self.vault.now()
        kinds = (("refresh_token", revocation.refresh_token), ("access_token", revocation.access_token))
        for kind, decrypt in kinds:
            if kind == "access_token" and is_over:
                continue
            try:
                token = decrypt(self.vault)
            except CannotDecrypt:  # of a grant that was linked meanwhile: the access token alone
                code: str | None = "cannot_decrypt"
            else:
                url = client.revocation_url
                code = await self._end(client, provider, url, token, kind, pace) if token else None
            if code is not None:
                is_only = kind == "refresh_token" or revocation.refresh_ciphertext is None
                return code if is_only else f"access_token_{code}"
        return "in_doubt" if revocation.in_doubt else None

    async def _end(
        self, client: Client, provider: Provider, url: str, token: Secret, kind: str, pace: _Pace
    ) -> str | None:
        """Revoke one token; return a code on failure.

        Raises:
            _Retry: the provider did not give an answer of its own.
        """
        now = await self.vault.now()
        try:
            request = provider.revocation(client, url, token=token, kind=kind, now=now)
        except ConfigurationError:
            return "no_client"
        answer = await send(self.http, request)
        if not isinstance(answer, Answer):
            raise _Retry(answer.code)
        if answer.status == 429 or answer.status >= 500:
            raise _Retry(f"http_{answer.status}", retry_after(answer.headers, now))
        pace.grow()
        if 200 <= answer.status < 300:
            return None
        code = _error_code(answer)
        if code in _UNKNOWN_TOKEN:
            return None
        if code in _CLIENT_REFUSED or answer.status == 401:
            # The client's other grants would be refused as well: they are listed without a call.
            pace.client_refused = "invalid_client"
            return pace.client_refused
        return "unsupported_token_type" if code == "unsupported_token_type" else f"http_{answer.status}"


def _error_code(answer: Answer) -> str | None:
    """Return the ``error`` of an answer, if it has one."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    found = content.get("error") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None
