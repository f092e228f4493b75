"""Fresh tokens for other programs: one indexed row, one decryption, no call to Auth0.

    from token_vault import TokenVault
    vault = TokenVault.from_env()  # DATABASE_URL, VAULT_ACCESS_KEYS, and REDIS_URL for on-demand refresh
    token = vault.user_token("google-oauth2|1111", connection="google-oauth2", min_ttl=60, wait=5)

A reader holds the access ring only: it can open no refresh token and no client secret. Where the stored token
has too little life left, the reader queues one on-demand refresh and waits for the database to tell of its end.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

import psycopg

from token_vault.database_errors import failure
from token_vault.errors import TokenNotFound
from token_vault.listener import AsyncListener, Listener
from token_vault.pool import AsyncPool, Pool
from token_vault.read_model import SELECT_SERVED, SELECT_STANDING, GrantStatus, Served
from token_vault.reader import Reader
from token_vault.token import Token

__all__ = ["AsyncTokenVault", "Token", "TokenVault"]

DEFAULT_WAIT = 5.0
LONGEST_WAIT = 86_400.0  # seconds; for ever is no time that threads and messages know
ADMIN = ""


class TokenVault(Reader):
    """Reads tokens; safe to share between threads, and with processes that are forked later.

    Args:
        database_url: of the vault.
        access_keys: the access ring, newest first.
        redis_url: None means without on-demand refresh.
        tenant: the tenant's name, where the vault has several.
    """

    def begin(self) -> None:
        """Begin with nothing open; called once more in each forked process."""
        super().begin()
        self._pool = Pool(self._database_url)
        self._listener = Listener(self._database_url)

    def user_token(
        self, user_id: str, connection: str, *, min_ttl: float | None = None, wait: float = DEFAULT_WAIT
    ) -> Token:
        """Return a user's fresh token.

        Args:
            user_id: Auth0's user id.
            connection: the connection's name.
            min_ttl: seconds of life wanted; None for what renewal in time always leaves.
            wait: seconds to wait for an on-demand refresh; a day at the most.

        Raises:
            TokenNotFound: nothing is stored for them.
            ReauthorizationRequired: the user must consent again.
            TokenExpired: it has ended, or ends too soon, and nobody can renew it.
            TemporarilyUnavailable: not now; ``retry_after`` says when.
            ConfigurationError, AccessDenied: the operator mends the keys, the database or its roles.
        """
        return self._token(_named(user_id), connection, min_ttl, wait)

    def admin_token(
        self, connection: str, *, min_ttl: float | None = None, wait: float = DEFAULT_WAIT
    ) -> Token:
        """Return the fresh admin token of an enterprise connection; raises as ``user_token``."""
        return self._token(ADMIN, connection, min_ttl, wait)

    def close(self) -> None:
        """Close the connections."""
        self._listener.close()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _token(self, user_id: str, connection: str, min_ttl: float | None, wait: float) -> Token:
        _check(user_id, connection)
        served = self._read(user_id, connection)
        if served.is_fresh(min_ttl):
            self._note(served)
            return self._open(served)
        return self._refreshed(served, min_ttl, wait)

    def _read(self, user_id: str, connection: str) -> Served:
        return self._pick(self._pool.rows(SELECT_SERVED, (user_id, connection)), user_id, connection)

    def _standing(self, served: Served) -> GrantStatus | None:
        rows = self._pool.rows(SELECT_STANDING, (served.id,))
        return GrantStatus._make(rows[0]) if rows else None

    def _refreshed(self, served: Served, min_ttl: float | None, wait: float) -> Token:
        standing = self._standing(served)
        token = self._stand(served, standing, min_ttl)
        if token is not None:
            return token
        wait = min(wait, LONGEST_WAIT)
        asking, deadline = self._asker(served), time.monotonic() + wait
        try:
            with self._listener.waiting(served.id, patience=wait) as told:
                # A refresh that ended before we listened has told us nothing.
                served = self._read(served.user_id, served.connection)
                if served.is_fresh(min_ttl):
                    return self._open(served)
                asking.ask(served, min_ttl, wait)
                while (remaining := deadline - time.monotonic()) > 0:
                    woken = told.wait(remaining)
                    told.clear()
                    served = self._read(served.user_id, served.connection)
                    if served.is_fresh(min_ttl):
                        return self._open(served)
                    standing = self._standing(served)
                    self._stand(served, standing, min_ttl)
                    if woken and self._is_over(served, standing):
                        break
        except psycopg.Error as error:
            raise failure(error) from None
        raise self._late(served, standing)


class AsyncTokenVault(Reader):
    """Reads tokens from asyncio, in any number of event loops; see ``TokenVault`` for arguments and errors."""

    def begin(self) -> None:
        """Begin with nothing open; called once more in each forked process."""
        super().begin()
        self._loops: dict[asyncio.AbstractEventLoop, tuple[AsyncPool, AsyncListener]] = {}

    async def user_token(
        self, user_id: str, connection: str, *, min_ttl: float | None = None, wait: float = DEFAULT_WAIT
    ) -> Token:
        """Return a user's fresh token; arguments and errors as ``TokenVault.user_token``."""
        return await self._token(_named(user_id), connection, min_ttl, wait)

    async def admin_token(
        self, connection: str, *, min_ttl: float | None = None, wait: float = DEFAULT_WAIT
    ) -> Token:
        """Return the fresh admin token of an enterprise connection."""
        return await self._token(ADMIN, connection, min_ttl, wait)

    async def close(self) -> None:
        """Close the connections."""
        await self._listener.close()
        await self._pool.close()
        for other, _ in list(self._loops.values()):
            other.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _here(self) -> tuple[AsyncPool, AsyncListener]:
        """What waits in this event loop: an app may run one after the other, or one in each thread."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for ended in [other for other in list(self._loops) if other.is_closed()]:
                if gone := self._loops.pop(ended, None):
                    gone[0].abandon()
            self._loops[loop] = AsyncPool(self._database_url), AsyncListener(self._database_url)
        return self._loops[loop]

    @property
    def _pool(self) -> AsyncPool:
        return self._here()[0]

    @property
    def _listener(self) -> AsyncListener:
        return self._here()[1]

    async def _token(self, user_id: str, connection: str, min_ttl: float | None, wait: float) -> Token:
        _check(user_id, connection)
        served = await self._read(user_id, connection)
        if served.is_fresh(min_ttl):
            self._note(served)
            return self._open(served)
        return await self._refreshed(served, min_ttl, wait)

    async def _read(self, user_id: str, connection: str) -> Served:
        return self._pick(await self._pool.rows(SELECT_SERVED, (user_id, connection)), user_id, connection)

    async def _standing(self, served: Served) -> GrantStatus | None:
        rows = await self._pool.rows(SELECT_STANDING, (served.id,))
        return GrantStatus._make(rows[0]) if rows else None

    async def _refreshed(self, served: Served, min_ttl: float | None, wait: float) -> Token:
        standing = await self._standing(served)
        token = self._stand(served, standing, min_ttl)
        if token is not None:
            return token
        wait = min(wait, LONGEST_WAIT)
        asking, deadline = self._asker(served), time.monotonic() + wait
        try:
            async with self._listener.waiting(served.id, patience=wait) as told:
                served = await self._read(served.user_id, served.connection)
                if served.is_fresh(min_ttl):
                    return self._open(served)
                await asking.ask_from_loop(served, min_ttl, wait)
                while (remaining := deadline - time.monotonic()) > 0:
                    woken = await _told(told, remaining)
                    served = await self._read(served.user_id, served.connection)
                    if served.is_fresh(min_ttl):
                        return self._open(served)
                    standing = await self._standing(served)
                    self._stand(served, standing, min_ttl)
                    if woken and self._is_over(served, standing):
                        break
        except psycopg.Error as error:
            raise failure(error) from None
        raise self._late(served, standing)


def _named(user_id: str) -> str:
    """An empty user id names the admin grant in the tables: no mistake of a caller may ask for that one."""
    if not user_id:
        raise TokenNotFound("the user id is empty")
    return user_id


def _check(user_id: object, connection: object) -> None:
    """Refuse what can be no name; Postgres would be blamed for it, as one that does not answer."""
    if not isinstance(user_id, str) or not isinstance(connection, str):
        raise TypeError("user_id and connection are strings")


async def _told(told: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return False
    told.clear()
    return True
