"""One interface to both readers, and rows to read.

The same scenarios run against threads and asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.keys import ACCESS_KEY
from tests.support.rows import encrypt_for_new_ends
from token_vault import AsyncTokenVault, Token, TokenVault
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.renewal.on_demand import Refreshed
from worker.renewal.refresh_requests import RefreshRequests
from worker.runtime import Runtime
from worker.token_pair import TokenPair
from worker.vault.ingest import ingest
from worker.vault.ingest.columns import IncomingGrant
from worker.vault.refresh_requests.queue import RefreshRequest
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]
OpenReader = Callable[..., "Reader"]

KINDS: dict[str, type[TokenVault | AsyncTokenVault]] = {"threads": TokenVault, "asyncio": AsyncTokenVault}
CROWDS = {"threads": 64, "asyncio": 200}


class Reader:
    """A ``TokenVault`` in threads or an ``AsyncTokenVault``; both are awaited."""

    def __init__(self, vault: TokenVault | AsyncTokenVault, threads: ThreadPoolExecutor) -> None:
        self.vault = vault
        self._threads = threads

    async def user_token(
        self,
        user_id: str,
        connection: str,
        *,
        account: str | None = None,
        min_ttl: float | None = None,
        wait: float = 0,
        needs: Sequence[str] = (),
        **target: Any,
    ) -> Token:
        return await self._call(
            partial(
                self.vault.user_token,
                user_id,
                connection,
                account=account,
                min_ttl=min_ttl,
                wait=wait,
                needs=needs,
                **target,
            )
        )

    async def rejected(self, token: Token) -> None:
        if isinstance(self.vault, TokenVault):
            await asyncio.get_running_loop().run_in_executor(self._threads, self.vault.rejected, token)
        else:
            await self.vault.rejected(token)

    async def admin_token(self, connection: str, *, min_ttl: float | None = None, wait: float = 0) -> Token:
        return await self._call(partial(self.vault.admin_token, connection, min_ttl=min_ttl, wait=wait))

    async def close(self) -> None:
        if isinstance(self.vault, TokenVault):
            await asyncio.get_running_loop().run_in_executor(self._threads, self.vault.close)
        else:
            await self.vault.close()

    async def _call(self, call: Callable[[], Token | Coroutine[Any, Any, Token]]) -> Token:
        if isinstance(self.vault, TokenVault):
            token = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        else:
            token = await call()  # type: ignore[misc]
        assert isinstance(token, Token)
        return token


@asynccontextmanager
async def opening(kind: str, database_url: Secret) -> AsyncIterator[Callable[..., Reader]]:
    """Give a factory of readers; close them at the end."""
    made: list[Reader] = []
    with ThreadPoolExecutor(max(CROWDS.values())) as threads:

        def make(
            *,
            database: Secret = database_url,
            keys: Sequence[Secret] = (ACCESS_KEY,),
            tenant: str | None = None,
        ) -> Reader:
            made.append(Reader(KINDS[kind](database, keys, tenant=tenant), threads))
            return made[-1]

        try:
            yield make
        finally:
            for reader in made:
                await reader.close()


@dataclass(frozen=True)
class Rows:
    """Writes rows as a sync does, then changes columns."""

    vault: Vault
    sql: Sql

    async def add(
        self,
        user_id: str = "oauth2|u1",
        connection: str = "custom",
        *,
        tenant: str = "default",
        subject: str = "u1",
        value: str = "token-of-u1",
        refresh: str | None = "refresh-of-u1",
        scopes: tuple[str, ...] | None = ("read", "write"),
        expires_in: float | None = 3600,
        life: float = 3600,
        **columns: object,
    ) -> int:
        """Add a grant whose access token ends in ``expires_in`` seconds.

        None means an unknown end. ``life`` is the token's whole life, in seconds; ``columns`` are written as they are. Returns the grant's id.
        """
        key = GrantKey(tenant, connection, user_id, subject if user_id else "")
        pair = TokenPair(Secret(value), Secret(refresh) if refresh else None, None, None, scopes)
        shown = IncomingGrant(key, "oauth2", pair, None, None)
        assert (await ingest.ingest(self.vault, [shown], now=await self.vault.now())).new == 1
        self.sql("UPDATE connections SET problem = NULL, problem_message = NULL")
        (row,) = self.sql(
            "SELECT id FROM grants WHERE user_id = %s AND connection = %s AND tenant = %s AND provider_user_id = %s",
            key.user_id, connection, tenant, key.provider_user_id,
        )  # fmt: skip
        self.age(row["id"], expires_in, life)
        for name, wanted in columns.items():
            self.sql(f"UPDATE grants SET {name} = %s WHERE id = %s", wanted, row["id"])
        return int(row["id"])

    def age(self, grant_id: int, expires_in: float | None, life: float = 3600) -> None:
        """Let a grant's token end ``expires_in`` seconds from now."""
        self.sql("BEGIN")  # nobody reads the new end beside the old ciphertext
        self.sql(
            "UPDATE grants SET expires_at = now() + %s * interval '1 s', obtained_from = 'renewal',"
            " obtained_at = now() + %s * interval '1 s', due_at = now() + interval '1 day' WHERE id = %s",
            expires_in, (expires_in or 0) - life, grant_id,
        )  # fmt: skip
        encrypt_for_new_ends(self.sql)
        self.sql("COMMIT")


@asynccontextmanager
async def on_demand_worker(runtime: Runtime) -> AsyncIterator[list[Refreshed]]:
    """Serve readers' refresh requests as the interactive worker does.

    Yields the list to which results are added.
    """
    results: list[Refreshed] = []
    requests = RefreshRequests(runtime.vault, runtime.on_demand, runtime.tenants)
    refresh = requests._refresh

    async def recorded(request: RefreshRequest) -> Refreshed | None:
        refreshed = await refresh(request)
        if refreshed is not None:
            results.append(refreshed)
        return refreshed

    requests._refresh = recorded  # type: ignore[method-assign]
    working = asyncio.create_task(requests.run())
    try:
        yield results
    finally:
        requests.stop()
        await working


def pending(sql: Sql) -> list[dict[str, Any]]:
    """The refresh requests that wait for a worker."""
    return sql("SELECT * FROM refresh_requests WHERE handled_at IS NULL AND claimed_until IS NULL")


async def requested(sql: Sql) -> dict[str, Any]:
    """Wait for a refresh request, and take it away."""
    for _ in range(1000):
        if found := sql("DELETE FROM refresh_requests RETURNING *"):
            (request,) = found
            return request
        await asyncio.sleep(0.02)
    raise AssertionError("nobody requests a refresh")
