"""Whether this process calls from an address that providers list."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

from worker.http_client import make_http_client, read_body
from worker.http_transport import HttpTransport
from worker.outgoing_proxies import OutgoingProxies, OutgoingProxy
from worker.providers import Problem

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The address is asked for at most this often; after a failure, or while it is wrong, more often.
KNOWN_SECONDS = 300.0
WRONG_SECONDS = 30.0
ASK_SECONDS = 5.0
MAX_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """An answer.

    Attributes:
        address: None where nobody told it.
        at: when it was asked for, in monotonic seconds.
    """

    address: Address | None
    at: float


@dataclass(slots=True)
class EgressCheck:
    """Asks a service which address calls it.

    Each route has its own address: directly, or through an outgoing proxy.

    Args:
        url: answers the caller's address, as text or as ``ip`` of a JSON object.
        clock: monotonic seconds.
    """

    url: str
    clock: Callable[[], float] = time.monotonic
    _known: dict[OutgoingProxy | None, _Known] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find_problem(self, target: str, listed: Sequence[Network]) -> Problem | None:
        """Return why nothing may be sent, if so.

        Args:
            target: whose route is meant.
            listed: the addresses that may call it.
        """
        proxy = OutgoingProxies.read().of(target)
        async with self._lock:  # one question, however many wait for its answer
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
    """Read an address: the whole answer, or its ``ip``."""
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
