"""Checks that this process calls from a listed address."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from worker.http.client import make_http_client, read_body
from worker.http.outgoing_proxies import OutgoingProxies, OutgoingProxy
from worker.http.transport import HttpTransport
from worker.providers import Problem

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# How long an answer is used that gives a listed address; an unlisted or unknown one is asked for again earlier.
KNOWN_SECONDS = 300.0
WRONG_SECONDS = 30.0
ASK_SECONDS = 5.0  # to wait for an answer
MAX_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """The address of one route.

    Attributes:
        address: None if the service did not answer it.
        at: when it was asked for, in monotonic seconds.
    """

    address: Address | None
    at: float


@dataclass(slots=True)
class EgressCheck:
    """Asks a service from which address this process calls.

    Each route has its own address: the direct one, and one through each outgoing proxy.

    Args:
        url: it answers with the caller's address, as text or as ``ip`` of a JSON object.
        clock: monotonic seconds.
    """

    url: str
    clock: Callable[[], float] = time.monotonic
    _known: dict[OutgoingProxy | None, _Known] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find_problem(self, target: str, listed: Sequence[Network]) -> Problem | None:
        """Return why a URL may not be called, if so.

        Args:
            target: the URL.
            listed: the addresses from which it accepts calls.
        """
        proxy = OutgoingProxies.read().of(target)
        async with self._lock:  # one request, however many wait for its answer
            known = self._known.get(proxy)
            if known is None or self.clock() - known.at > _lifetime(known.address, listed):
                known = self._known[proxy] = _Known(await self._ask(proxy), self.clock())
        if _is_listed(known.address, listed):
            return None
        found = known.address or f"unknown, as {httpx.URL(self.url).host} does not tell it"
        return Problem(
            "egress_changed",
            f"nothing is sent, as the provider takes calls from {', '.join(map(str, listed))} alone, and this "
            f"process's address is {found}: restore the egress, or correct egress in the TOML file and at the provider",
        )

    async def _ask(self, proxy: OutgoingProxy | None) -> Address | None:
        route = OutgoingProxies({"https": proxy} if proxy else {})
        try:
            async with (
                asyncio.timeout(ASK_SECONDS),
                make_http_client(
                    timeout=httpx.Timeout(ASK_SECONDS), transport=HttpTransport(proxies=route)
                ) as http,
                http.stream("GET", self.url) as response,
            ):
                response.raise_for_status()
                return parse_address(await read_body(response, MAX_ANSWER_BYTES))
        except (httpx.HTTPError, TimeoutError):
            return None


def parse_address(body: bytes) -> Address | None:
    """Parse an address: the whole answer, or its ``ip``."""
    try:
        text = body.decode().strip()
        document = json.loads(text) if text.startswith(("{", '"')) else text
        found = document.get("ip") if isinstance(document, dict) else document
        return ip_address(found) if isinstance(found, str) else None
    except (ValueError, RecursionError):
        return None


def _is_listed(address: Address | None, listed: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in listed)


def _lifetime(address: Address | None, listed: Sequence[Network]) -> float:
    return KNOWN_SECONDS if _is_listed(address, listed) else WRONG_SECONDS
