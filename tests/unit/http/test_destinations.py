"""Hosts that an outgoing proxy will resolve, as they are seen from here."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.wait import WAIT_SECONDS
from worker.http import destinations as module
from worker.http.destinations import CACHED_SECONDS, Destinations


async def test_one_internal_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy may choose any address of a host; a host that leads elsewhere a minute later is seen."""
    now, addresses = [0.0], ["93.184.216.34"]

    async def resolved(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    destinations = Destinations((), lambda: now[0])
    assert not await destinations.is_internal("rebound.example")
    addresses.append("169.254.169.254")
    assert await destinations.is_internal("other.example")
    assert not await destinations.is_internal("rebound.example")
    now[0] += CACHED_SECONDS + 1
    assert await destinations.is_internal("rebound.example")


async def test_a_host_that_is_no_name_is_left_to_the_proxy() -> None:
    """A label of more than 63 characters cannot even be asked for."""
    assert not await Destinations(()).is_internal(f"{'a' * 64}.example")


async def test_a_name_server_that_does_not_answer_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is not resolved in time is left to the proxy, and only so many hosts are remembered."""

    async def never(*_: object, **__: object) -> list[object]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.0)
    monkeypatch.setattr(module, "MAX_CACHED_HOSTS", 2)
    destinations = Destinations(())
    async with asyncio.timeout(WAIT_SECONDS):
        for number in range(5):
            assert not await destinations.is_internal(f"{number}.example")
            assert len(destinations._cached) <= 2
