"""The management token that all workers of a tenant share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from token_vault.secret import Secret

# A token is not used in its last minute, so that it does not end before Auth0 checks it.
EXPIRY_LEEWAY = timedelta(seconds=60)


@dataclass(frozen=True)
class ManagementToken:
    """An access token for the Management API.

    Attributes:
        value: the token.
        expires_at: when it ends (UTC).
        scopes: what it may do; None if the answer did not name them.
    """

    value: Secret
    expires_at: datetime
    scopes: frozenset[str] | None


class TokenStore(Protocol):
    """Where a tenant's workers share the management token.

    Each minted token counts against the tenant's quota.
    """

    async def get(self) -> ManagementToken | None:
        """Return the shared token, even an expired one, if any."""

    def minting(self) -> AbstractAsyncContextManager[None]:
        """Hold the right to mint; call ``get`` again inside."""

    async def put(self, token: ManagementToken) -> None:
        """Share a new token; called inside ``minting``."""


class MemoryTokenStore:
    """A token shared within one process and event loop."""

    def __init__(self) -> None:
        self._token: ManagementToken | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> ManagementToken | None:
        """Return the shared token, if any."""
        return self._token

    @asynccontextmanager
    async def minting(self) -> AsyncIterator[None]:
        """Let one caller mint at a time."""
        async with self._lock:
            yield

    async def put(self, token: ManagementToken) -> None:
        """Share a new token."""
        self._token = token


class SharedToken:
    """The token in use: this process's, the store's, or new."""

    def __init__(
        self,
        store: TokenStore,
        mint: Callable[[], Awaitable[ManagementToken]],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._mint = mint
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token: ManagementToken | None = None
        self._renew_at: datetime | None = None
        self.has_minted = False

    async def get(self, *, instead_of: ManagementToken | None = None) -> ManagementToken:
        """Return a token with life left.

        Args:
            instead_of: a token that Auth0 refused, or that lacks scopes: another one is needed.

        Raises:
            Auth0Error: Auth0 issues none.
        """
        async with self._lock:
            if self._token and self._is_usable(self._token, instead_of):
                return self._token
            stored = await self._store.get()
            if stored and self._is_usable(stored, instead_of):
                return self._keep(stored)
            async with self._store.minting():
                newer = await self._store.get()
                if newer and self._is_just_minted(newer, stored, instead_of):
                    return self._keep(newer)
                minted = await self._mint()
                await self._store.put(minted)
            self.has_minted = True
            return self._keep(minted)

    def forget(self) -> None:
        """Drop this process's copy; the next call asks the store."""
        self._token = None

    def _keep(self, token: ManagementToken) -> ManagementToken:
        # A token with less than two minutes left when it is first used is used for half of that time.
        left = token.expires_at - self._clock()
        self._renew_at = token.expires_at - min(EXPIRY_LEEWAY, left / 2)
        self._token = token
        return token

    def _is_usable(self, token: ManagementToken, instead_of: ManagementToken | None) -> bool:
        if instead_of and token.value == instead_of.value:
            return False
        renew_at = self._renew_at if token is self._token else None
        return self._clock() < (renew_at or token.expires_at - EXPIRY_LEEWAY)

    def _is_just_minted(
        self, token: ManagementToken, before: ManagementToken | None, instead_of: ManagementToken | None
    ) -> bool:
        # A token that was stored while this process waited to mint is new, however short its life is.
        earlier = [old.value for old in (before, instead_of) if old]
        return token.value not in earlier and self._clock() < token.expires_at
