"""A vault whose connections lead to scripted providers, and time that a test moves on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from emulators.scripted import Policy, ScriptedProvider, ScriptedServer, Wording
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.renewal.engine import RenewalEngine
from worker.renewal.http import http_client
from worker.runtime import Runtime
from worker.token_pair import TokenPair
from worker.vault.claims.spool import Spool
from worker.vault.connections.connection import store_connection
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.ingest.ingest import ingest

TENANT = "default"
CLIENT, SECRET = "the-client", "the-secret"

Row = dict[str, Any]
Sql = Callable[..., list[Row]]


@dataclass
class ScriptedWorld:
    """Providers that play their scripts, a vault, and one clock for all of them."""

    runtime: Runtime
    server: ScriptedServer
    sql: Sql
    start: datetime = datetime(2026, 3, 2, tzinfo=UTC)
    elapsed: float = 0.0
    engine: RenewalEngine = field(init=False)

    async def open(self, stack: AsyncExitStack, *, seed: int = 1) -> ScriptedWorld:
        """Open an engine that goes by this world's clock."""
        http = await stack.enter_async_context(http_client(100))
        spool = Spool(self.runtime.settings.spool, self.runtime.vault.refresh)
        self.engine = RenewalEngine(
            self.runtime.vault,
            self.runtime.connections,
            http,
            spool,
            now=self.now,
            jitter=Random(seed).random,
        )
        return self

    def now(self) -> datetime:
        """Return the time in this world."""
        return self.start + timedelta(seconds=self.elapsed)

    def add_provider(
        self, name: str, *, policy: Policy | None = None, wording: Wording | None = None, seed: int = 1
    ) -> ScriptedProvider:
        """Add a provider with one client, on this world's clock."""
        provider = ScriptedProvider(name, policy=policy, wording=wording, seed=seed)
        provider.clock.set(self.now().timestamp())
        provider.add_client(CLIENT, SECRET)
        self.server.providers[name] = provider
        return provider

    async def show_connection(self, name: str, *, client_id: str = CLIENT, secret: str = SECRET) -> None:
        """Store a connection as Auth0 shows it."""
        options = {"client_id": client_id, "client_secret": secret, "tokenURL": self.server.token_url(name)}
        await store_connection(
            self.runtime.vault, tenant=TENANT, name=name, auth0_id=f"con_{name}", strategy="oauth2",
            options=options, notes=(), now=self.now(),
        )  # fmt: skip

    async def log_in(self, provider: ScriptedProvider, *users: str, client_id: str = CLIENT) -> None:
        """Let users consent, and Auth0 show their tokens."""
        grants = []
        for user in users:
            pair = provider.add_grant(user, client_id).pairs[-1]
            assert pair.refresh_token is not None
            key = GrantKey(TENANT, provider.name, f"oauth2|{provider.name}|{user}", user)
            ends = None if pair.ends_at is None else datetime.fromtimestamp(pair.ends_at, UTC)
            tokens = TokenPair(Secret(pair.access_token), Secret(pair.refresh_token), ends)
            grants.append(IncomingGrant(key, "oauth2", tokens, self.now(), self.now(), self.now()))
        await ingest(self.runtime.vault, grants, now=self.now())

    async def pass_time(
        self, seconds: float, *, tick: float, watch: Callable[[], None] | None = None
    ) -> None:
        """Let time pass, with a look for due grants at each tick."""
        until = self.elapsed + seconds
        while self.elapsed < until:
            self.elapsed += tick
            for provider in self.server.providers.values():
                provider.clock.set(self.now().timestamp())
            await self.engine.renew_due([TENANT])
            if watch is not None:
                watch()

    def grants(self, connection: str | None = None) -> dict[tuple[str, str], Row]:
        """Return the rows of grants, by connection and account."""
        rows = self.sql(
            "SELECT connection, provider_user_id, state, reason, reason_since, expires_at, due_at FROM grants"
            " WHERE connection = coalesce(%s, connection)",
            connection,
        )
        return {(row["connection"], row["provider_user_id"]): row for row in rows}

    def circuit(self, connection: str) -> str | None:
        """Return whom the connection's open circuit blames."""
        [row] = self.sql("SELECT circuit_blame FROM connections WHERE name = %s", connection)
        blame: str | None = row["circuit_blame"]
        return blame
