"""The HTTP session to providers that all calls share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from worker.http.outgoing_proxies import OutgoingProxies

KEEPALIVE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ProviderSession:
    """The HTTP session, and the outgoing proxies.

    Attributes:
        http: keeps no cookies, and decompresses nothing.
        proxies: between this process and providers.
    """

    http: aiohttp.ClientSession
    proxies: OutgoingProxies


@asynccontextmanager
async def open_session(max_calls: int) -> AsyncIterator[ProviderSession]:
    """Open the session.

    Args:
        max_calls: at a time; each has a connection of its own.

    Raises:
        ConfigurationError: the environment names an outgoing proxy by an invalid URL.
    """
    proxies = OutgoingProxies.read()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=max_calls, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    ) as http:
        yield ProviderSession(http, proxies)
