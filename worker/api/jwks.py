"""The issuer's public keys: cached, refetched, bounded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import structlog

from token_vault.errors import TemporarilyUnavailable
from worker.http_client import make_http_client

log = structlog.get_logger(__name__)

# A key that the issuer took out of its set is distrusted after this long.
FRESH_SECONDS = 60.0
# Between two fetches: tokens with unknown key ids come from anybody.
MIN_FETCH_SECONDS = 20.0
# The last set is used for this long while the issuer does not answer.
MAX_STALE_SECONDS = 3600.0
FETCH_SECONDS = 5.0
MAX_JWKS_BYTES = 256_000
MAX_KEYS = 50


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of the set.

    Attributes:
        algorithm: the only one that it verifies, where the issuer says so.
    """

    key: Any
    type: str
    algorithm: str | None


@dataclass(slots=True)
class Jwks:
    """The issuer's key set.

    Args:
        url: where it is; no token names it.
        clock: monotonic seconds.
    """

    url: str
    clock: Callable[[], float] = time.monotonic
    _keys: dict[str, PublicKey] = field(default_factory=dict)
    _fetched_at: float = float("-inf")
    _tried_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def key(self, kid: str) -> PublicKey | None:
        """Return a key by its id, if there is one.

        Raises:
            TemporarilyUnavailable: the issuer does not answer, and what is known is too old.
        """
        if self._is_due(kid) or (self._lock.locked() and kid not in self._keys):
            async with self._lock:  # one fetch, however many wait for it
                if self._is_due(kid):
                    await self._fetch()
        if self.clock() - self._fetched_at > MAX_STALE_SECONDS:
            raise TemporarilyUnavailable(
                "the keys of the tokens' issuer cannot be fetched now", MIN_FETCH_SECONDS
            )
        return self._keys.get(kid)

    def _is_due(self, kid: str) -> bool:
        now = self.clock()
        wanted = kid not in self._keys or now - self._fetched_at > FRESH_SECONDS
        return wanted and now - self._tried_at > MIN_FETCH_SECONDS

    async def _fetch(self) -> None:
        self._tried_at = self.clock()
        try:
            self._keys = _read(await _get(self.url))
        except (httpx.HTTPError, ValueError) as error:
            log.warning("jwks.fetch_failed", error=type(error).__name__)
            return
        self._fetched_at = self._tried_at


async def _get(url: str) -> bytes:
    """Fetch a body of bounded size.

    Raises:
        httpx.HTTPError, ValueError: there is none.
    """
    body = b""
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            make_http_client(timeout=httpx.Timeout(FETCH_SECONDS)) as http,
            http.stream("GET", url) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError("the key set is too large")
    except TimeoutError:
        raise ValueError("the key set takes too long") from None
    return body


def _read(body: bytes) -> dict[str, PublicKey]:
    """Read the keys that verify signatures; others are left out.

    Raises:
        ValueError: it is no key set.
    """
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("this is no key set")  # noqa: TRY004  # the issuer's mistake, not a caller's
    found: dict[str, PublicKey] = {}
    for entry in document["keys"][:MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC"):
            continue  # a symmetric key in a public place verifies nothing
        kid = entry.get("kid")
        if entry.get("use", "sig") != "sig" or not isinstance(kid, str):
            continue
        try:
            key = jwt.PyJWK(entry, algorithm=None if entry["kty"] == "EC" else "RS256").key
        except jwt.PyJWTError:
            continue
        algorithm = entry.get("alg")
        found[kid] = PublicKey(key, entry["kty"], algorithm if isinstance(algorithm, str) else None)
    return found
