"""The issuer's public keys: cached, refetched, bounded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from token_vault.errors import TemporarilyUnavailable
from worker.http.addresses import is_internal_literal
from worker.http.client import make_http_client, read_body
from worker.http.loopback import is_loopback
from worker.http.transport import HttpTransport

log = structlog.get_logger(__name__)

# For so long a key is still trusted that the issuer has removed from its set.
FRESH_SECONDS = 60.0
# Between two fetches, as anybody can send tokens with unknown key ids.
MIN_FETCH_SECONDS = 20.0
# For so long the last set is used while the issuer does not answer.
MAX_STALE_SECONDS = 3600.0
FETCH_SECONDS = 5.0
MAX_JWKS_BYTES = 256_000
MAX_KEYS = 50


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of the set.

    Attributes:
        type: ``kty``, such as RSA.
        algorithm: the only one that it verifies; None if the issuer does not say.
    """

    key: Any
    type: str
    algorithm: str | None


@dataclass(slots=True)
class Jwks:
    """The issuer's key set.

    Args:
        url: of the key set, or of the issuer's configuration, which names the key set. Tokens cannot choose it.
        clock: monotonic seconds.
        issuer: of the configuration. None if ``url`` is the key set itself.
        named: hosts that the operator names. A host that only the configuration names must not resolve to an internal
            address. None for no such check.
    """

    url: str
    clock: Callable[[], float] = time.monotonic
    issuer: str | None = None
    named: Collection[str] | None = None
    _keys: dict[str, PublicKey] = field(default_factory=dict)
    _fetched_at: float = float("-inf")
    _tried_at: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def key(self, kid: str) -> PublicKey | None:
        """Return a key by its id, if there is one.

        Raises:
            TemporarilyUnavailable: the issuer does not answer, and the last set is too old.
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
            url = self.url
            if self.issuer is not None:
                url = _key_set_url(await _get(url, self.named), self.issuer, url)
            self._keys = _read(await _get(url, self.named))
        # Deeply nested JSON raises RecursionError.
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            log.warning("jwks.fetch_failed", error=type(error).__name__)
            return
        self._fetched_at = self._tried_at


async def _get(url: str, named: Collection[str] | None) -> bytes:
    """Fetch a body of limited size.

    Raises:
        httpx.HTTPError, ValueError: it cannot be fetched, is too large, or takes too long.
    """
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            make_http_client(
                timeout=httpx.Timeout(FETCH_SECONDS), transport=HttpTransport(named=named)
            ) as http,
            http.stream("GET", url) as response,
        ):
            response.raise_for_status()
            return await read_body(response, MAX_JWKS_BYTES)
    except TimeoutError:
        raise ValueError("the key set takes too long") from None


def _key_set_url(body: bytes, issuer: str, found_at: str) -> str:
    """Return the key set's URL from an issuer's configuration.

    Raises:
        ValueError: it is another issuer's, or the URL is not a public https address.
    """
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(url := document.get("jwks_uri"), str):
        raise ValueError("the configuration names no key set")  # noqa: TRY004  # the issuer's mistake
    if str(document.get("issuer")).rstrip("/") != issuer.rstrip("/"):
        raise ValueError("the configuration is another issuer's")
    parts = urlsplit(url)
    is_local = is_loopback(urlsplit(found_at).hostname) and is_loopback(parts.hostname)
    if not is_local and (parts.scheme != "https" or is_internal_literal(parts.hostname)):
        raise ValueError("the key set is not at a public https address")
    return url


def _read(body: bytes) -> dict[str, PublicKey]:
    """Return the keys that verify signatures, by their ids.

    Raises:
        ValueError: it is no key set.
    """
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("this is no key set")  # noqa: TRY004  # the issuer's mistake, not a caller's
    found: dict[str, PublicKey] = {}
    for entry in document["keys"][:MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC"):
            continue  # a published symmetric key proves nothing
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
