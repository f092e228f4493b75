"""Workers on the emulated tenant, and what they did.

Their time-outs are short, and a test may give them a clock.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from emulators.client import Emulation
from tests.support.wait import until_async
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from worker import providers
from worker.renewal.engine import CLAIM_TIME, RenewalEngine
from worker.renewal.http import http_client, send
from worker.renewal.on_demand import OnDemand
from worker.runtime import Runtime
from worker.vault import claims
from worker.vault.claims.spool import Spool
from worker.vault.vault import Vault

Row = dict[str, Any]
Sql = Callable[..., list[Row]]


class Pair(NamedTuple):
    """A grant's tokens in plain text."""

    access: str | None
    refresh: str | None


class Renewals:
    """Workers on one vault, with the tenant they renew for."""

    def __init__(
        self,
        tenant: Emulation,
        open_worker: Callable[[], Awaitable[Runtime]],
        sql: Sql,
        stack: AsyncExitStack,
    ) -> None:
        self.tenant = tenant
        self.sql = sql
        self._open_worker = open_worker
        self._stack = stack

    def connect(
        self,
        name: str,
        provider: str = "custom",
        strategy: str = "oauth2",
        *,
        users: int = 1,
        expires_in: float | None = 3600,
        **behaviour: Any,
    ) -> list[str]:
        """Add a connection with users; return the users' ids.

        The provider is a strict one unless ``behaviour`` says otherwise: it rotates, forgives no reuse, and
        revokes the whole family of a refresh token that comes twice.
        """
        if provider == "custom":
            behaviour = {"reuse_revokes_family": True} | behaviour
        self.tenant.configure_provider(name, like=provider, **behaviour)
        self.tenant.add_connection(name, strategy, name)
        return self.tenant.add_users(name, users, expires_in=expires_in) if users else []

    async def worker(
        self,
        *,
        answer_seconds: float = 20,
        now: Callable[[], datetime] | None = None,
        jitter: Callable[[], float] = random.random,
        connections: int | None = None,
    ) -> Runtime:
        """Open a worker with this HTTP time-out (seconds) and clock."""
        runtime = await self._open_worker()
        http = await self._stack.enter_async_context(http_client(connections or 100))
        http.timeout = httpx.Timeout(answer_seconds)
        spool = Spool(runtime.settings.spool, runtime.vault.refresh)
        runtime.engine = RenewalEngine(
            runtime.vault, runtime.connections, http, spool, now=now, jitter=jitter
        )
        runtime.on_demand = OnDemand(runtime.vault, runtime.connections, runtime.engine, listeners=5)
        return runtime

    async def synced(self, **options: Any) -> Runtime:
        """Open a worker and let it pull everything in."""
        runtime = await self.worker(**options)
        await self.sync(runtime)
        return runtime

    async def sync(self, runtime: Runtime) -> None:
        """Pull everything in again."""
        report = await (await runtime.tenant_sync("default")).sync_all()
        assert report.ok, report.problems

    def make_due(self, user_id: str | None = None) -> None:
        """Make all grants due, or one user's, unless under renewal."""
        self.sql(
            "UPDATE grants SET due_at = now() WHERE due_at IS NOT NULL AND claim_owner IS NULL"
            " AND user_id = coalesce(%s, user_id)",
            user_id,
        )

    async def die_during_calls(self, worker: Runtime, *, carried_out: bool) -> datetime:
        """Leave all due grants as a killed worker does.

        Args:
            carried_out: the requests had reached the provider, and the answers never arrived.

        Returns:
            When the worker had begun.
        """
        known = await worker.connections.load(["default"])
        began = await worker.vault.now()
        claimed = await claims.claim_due(
            worker.vault,
            dict.fromkeys(known, 100),
            owner=uuid4(),
            now=began,
            until=began + CLAIM_TIME,
            limit=100,
        )
        async with http_client() as http:
            for claim in claimed if carried_out else []:
                client = known[claim.key.tenant, claim.key.connection].client
                assert client is not None
                access, refresh = (
                    claims.decrypt_access_token(worker.vault, claim),
                    claims.decrypt_refresh_token(worker.vault, claim),
                )
                request = providers.get(client.provider).request(client, access=access, refresh=refresh)
                await send(http, request)
        self.sql("UPDATE grants SET claim_until = now(), due_at = now() WHERE claim_owner IS NOT NULL")
        return began

    def row(self, user_id: str = "", connection: str | None = None) -> Row:
        """Read a grant's row."""
        [row] = self.sql(
            "SELECT *, now() FROM grants WHERE user_id = %s AND connection = coalesce(%s, connection)",
            user_id,
            connection,
        )
        return row

    def rows(self, connection: str | None = None) -> list[Row]:
        """Read all grants' rows, or one connection's."""
        return self.sql(
            "SELECT *, now() FROM grants WHERE connection = coalesce(%s, connection) ORDER BY id", connection
        )

    def states(self, connection: str | None = None) -> set[str]:
        """Say which states grants are in."""
        return {row["state"] for row in self.rows(connection)}

    def circuit(self, connection: str) -> Row:
        """Read a connection's circuit; ``pause`` is what remains, in seconds."""
        [row] = self.sql(
            "SELECT circuit_opened_at, circuit_until, circuit_code, circuit_failures,"
            " extract(epoch FROM circuit_until - now())::float8 AS pause FROM connections WHERE name = %s",
            connection,
        )
        return row

    def end_pause(self, connection: str) -> None:
        """Let an open circuit's pause be over."""
        self.sql(
            "UPDATE connections SET circuit_opened_at = circuit_opened_at - interval '1 hour',"
            " circuit_until = now() WHERE name = %s AND circuit_until IS NOT NULL",
            connection,
        )

    async def waited_for(self, times: int = 1) -> None:
        """Wait until this many wait for another's call."""
        await until_async(
            lambda: (
                len(
                    self.sql(
                        "SELECT pid FROM pg_stat_activity"
                        " WHERE datname = current_database() AND query LIKE 'UPDATE grants SET awaited%'"
                    )
                )
                >= times
            )
        )

    async def called(self, provider: str, times: int = 1) -> None:
        """Wait until a token endpoint has had this many calls."""
        await until_async(lambda: len(self.token_calls(provider)) >= times)

    def token_calls(self, provider: str) -> list[Row]:
        """List the calls to a provider's token endpoint."""
        return self.tenant.call_log(f"/idp/{provider}/")

    def holds_what_lives(self, vault: Vault, user_id: str, connection: str) -> bool:
        """Whether the vault holds the provider's newest live tokens."""
        live = self.tenant.live(user_id, connection)
        return opened(vault, self.row(user_id, connection)) == (live["access_token"], live["refresh_token"])


def opened(vault: Vault, row: Row) -> Pair:
    """Decrypt a row's tokens."""
    key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
    found = []
    for ring, field in ((vault.access, "access"), (vault.refresh, "refresh")):
        sealed = row[f"{field}_ciphertext"]
        place = EncryptionContext.of_grant(key, field, row[f"{field}_version"])
        if field == "access":
            place = EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])
        found.append(None if sealed is None else ring.decrypt(place, sealed).reveal())
    return Pair(*found)
