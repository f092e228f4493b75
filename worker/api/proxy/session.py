"""The connections to providers that all calls share."""

from __future__ import annotations

import aiohttp

MAX_CONNECTIONS = 100
KEEPALIVE_SECONDS = 15.0


def open_session() -> aiohttp.ClientSession:
    """Open what all calls of this process share.

    It keeps no cookies, follows no environment and decodes nothing.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )
