"""Nobody but the operator can name an address inside his network."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from worker.http.addresses import is_internal, may_connect
from worker.http.transport import _PublicResolver
from worker.providers import Client, Problem, TokenRequest, resolve
from worker.renewal.http import NoAnswer, http_client, send
from worker.webhooks.http import http_client as webhook_client
from worker.webhooks.http import post

KEYS = {"client_id": "the-id", "client_secret": "the-secret"}
INTERNAL = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe", "2002:a00:1::",
    "198.18.0.1", "240.0.0.1", "fc00::1", "fec0::1", "64:ff9b:1::a9fe:a9fe", "::10.0.0.1", "::ffff:0:10.0.0.1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses(address: str) -> None:
    """No unnamed host leads to a private, link-local, loopback, shared, multicast or reserved address."""
    assert is_internal(address)
    assert not may_connect("stranger.example", address, {"named.example"})


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses(address: str) -> None:
    """Any host may lead to a public address."""
    assert may_connect("stranger.example", address, ())


def test_what_the_operator_names() -> None:
    """A host in the settings may be private; a cloud's metadata service is reached by no name."""
    assert may_connect("Named.example.", "10.0.0.1", {"named.example"})
    assert may_connect("localhost", "127.0.0.1", ())
    assert not may_connect("localhost", "10.0.0.1", ())
    assert may_connect("localhost", "::ffff:127.0.0.1", ())
    for address in (
        "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "64:ff9b::a9fe:a9fe", "0.0.0.0", "224.0.0.1",
    ):  # fmt: skip
        assert not may_connect("named.example", address, {"named.example"})


@pytest.mark.parametrize("address", [each for each in INTERNAL if "%" not in each])
@pytest.mark.parametrize("strategy", ["oauth2", "oidc"])
def test_a_token_url_from_auth0_is_not_internal(strategy: str, address: str) -> None:
    """A token URL in a connection's options that names an internal address is a problem."""
    host = f"[{address}]" if ":" in address else address
    for name in (host, "localhost"):
        found = resolve(strategy, KEYS | {"tokenURL": f"https://{name}/t"}, None, allow_loopback_http=False)
        assert isinstance(found, Problem)
        assert found.code == "internal_token_url"


def test_an_emulated_tenants_token_url_is_on_loopback() -> None:
    """A tenant on this machine may show token URLs on it, and none elsewhere inside."""
    options = KEYS | {"tokenURL": "http://127.0.0.1:8080/t"}
    assert isinstance(resolve("oauth2", options, None, allow_loopback_http=True), Client)
    options = KEYS | {"tokenURL": "https://10.0.0.1/t"}
    assert isinstance(resolve("oauth2", options, None, allow_loopback_http=True), Problem)


@pytest.mark.parametrize("host", ["stranger.example", "metadata.example"])
@pytest.mark.parametrize("kind", ["token", "webhook"])
async def test_a_name_that_leads_inside_gets_no_connection(
    monkeypatch: pytest.MonkeyPatch, host: str, kind: str
) -> None:
    """A name that resolves to this machine gets no connection, though a server listens there."""
    reached: list[Any] = []
    server = await asyncio.start_server(lambda *streams: reached.append(streams), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    url = f"http://{host}:{port}/t"
    async with server:
        if kind == "token":
            async with http_client(named=()) as http:  # where the operator names no host, none is allowed
                answer = await send(http, TokenRequest("POST", url, {}, b"secret"))
            assert answer == NoAnswer(sent=False, code="unreachable")
        else:
            async with webhook_client(named={"another.example"}) as http:
                assert (await post(http, url, b"event", {})).error == "unreachable"
    assert reached == []


async def test_of_a_names_addresses_the_public_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and an internal address is not called at the internal one."""
    resolved = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443))
        for each in ("169.254.169.254", "93.184.216.34")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    found = await _PublicResolver(()).resolve("both.example", 443)
    assert [each["host"] for each in found] == ["93.184.216.34"]
