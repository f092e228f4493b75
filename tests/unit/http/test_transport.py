"""Calls through an outgoing proxy, and what is said where it fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import structlog

from tests.support.connect_proxy import ConnectProxy, Failure, connect_proxy
from tests.support.tls_server import TlsServer, tls_server
from token_vault.secret import Secret
from worker.api.jwks import Jwks
from worker.api.problems import ApiProblem
from worker.api.proxy.call import ProxyCall
from worker.api.proxy.forward import forward
from worker.api.proxy.request_body import RequestBody
from worker.api.proxy.session import open_session
from worker.auth0 import Credentials, ManagementClient, MemoryTokenStore, RetryPolicy
from worker.auth0.errors import Auth0Unreachable
from worker.http import transport
from worker.providers import TokenRequest
from worker.renewal.http import Answer, NoAnswer, http_client, send
from worker.settings import ProxySettings
from worker.webhooks.http import PostResult, post
from worker.webhooks.http import http_client as webhook_client

HOST = "provider.invalid"
REQUEST = TokenRequest("POST", f"https://{HOST}/token", {}, b"refresh_token=canary-token")
PAIR = b'{"access_token": "new"}'
PASSWORD = "canary-password"


@pytest.fixture
async def answers() -> AsyncIterator[list[bytes]]:
    """What the provider answers each request with; empty to break off."""
    given = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAIR), PAIR)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(given[0])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        given.append(str(server.sockets[0].getsockname()[1]).encode())
        yield given


@pytest.fixture
def provider(answers: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsServer]:
    """The provider behind TLS; its certificate is trusted."""
    with tls_server(int(answers[1]), tmp_path, HOST) as server:
        trusting = ssl.create_default_context(cafile=str(server.certificate))
        monkeypatch.setattr(transport, "tls_context", lambda: trusting)
        yield server


@pytest.fixture
def proxy(provider: TlsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    """The way to the provider, for whoever has its password."""
    with connect_proxy() as running:
        running.names[f"{HOST}:443"] = provider.port
        running.credentials = "Basic dmF1bHQ6Y2FuYXJ5LXBhc3N3b3Jk"
        monkeypatch.setenv("HTTPS_PROXY", f"http://vault:{PASSWORD}@127.0.0.1:{running.port}")
        monkeypatch.setattr("worker.http.destinations.LOOKUP_SECONDS", 0.2)
        yield running


async def test_a_renewal_goes_through_the_tunnel(proxy: ConnectProxy, provider: TlsServer) -> None:
    """The proxy learns the host, and neither the token nor more; the provider learns nothing of the proxy."""
    async with http_client() as http:
        answer = await send(http, REQUEST)
    assert isinstance(answer, Answer)
    assert answer.body == PAIR
    assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert b"canary-token" in provider.received
    assert b"proxy-authorization" not in provider.received.lower()


async def test_a_proxy_may_be_spoken_to_over_tls(
    proxy: ConnectProxy, provider: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password and the host's name go to it encrypted; one whose certificate is not trusted gets neither."""
    with tls_server(proxy.port, tmp_path) as front:
        monkeypatch.setenv("HTTPS_PROXY", f"https://vault:{PASSWORD}@localhost:{front.port}")
        with structlog.testing.capture_logs() as logs:
            async with http_client() as http:
                assert await send(http, REQUEST) == NoAnswer(sent=False, code="proxy_failed")
        assert f"the outgoing proxy localhost:{front.port} (HTTPS_PROXY) has a certificate" in str(logs)
        assert front.received == b""
        transport.tls_context().load_verify_locations(front.certificate)
        async with http_client() as http:
            answer = await send(http, REQUEST)
    assert isinstance(answer, Answer)
    assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert b"canary-token" not in front.received
    assert b"canary-token" in provider.received


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (407, "refuses its user or password (407)"),
        (401, "refuses its user or password (401)"),  # as tinyproxy answers
        (403, "opens no tunnel (403)"),
        (502, "opens no tunnel (502)"),
        ("hangs", "opens no tunnel in time"),
        ("breaks", "breaks off"),
        ("gone", "does not answer"),
        ("unknown", "does not answer ("),
    ],
)
async def test_what_the_proxy_does_is_not_the_providers(
    proxy: ConnectProxy,
    provider: TlsServer,
    failure: Failure | int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tunnel that does not open leaves the request unsent, and the log names the proxy without its password."""
    if failure == "hangs":
        monkeypatch.setattr("worker.renewal.http.CONNECT_SECONDS", 0.5)
    if failure == "gone":
        monkeypatch.setenv("HTTPS_PROXY", f"http://vault:{PASSWORD}@127.0.0.1:1")
    elif failure == "unknown":
        monkeypatch.setenv("HTTPS_PROXY", f"http://vault:{PASSWORD}@proxy.invalid:3128")
    else:
        proxy.failure = failure
    with structlog.testing.capture_logs() as logs:
        async with http_client() as http:
            answer = await send(http, REQUEST)
    assert answer == NoAnswer(sent=False, code="proxy_failed")
    assert provider.received == b""
    [event] = [each for each in logs if each["event"] == "outgoing_proxy.failed"]
    assert event["error"].startswith("the outgoing proxy ")
    assert said in event["error"]
    assert "Error" not in event["error"]  # a class's name tells an operator nothing
    assert "HTTPS_PROXY" in event["error"]
    assert PASSWORD not in str(logs)


async def test_what_happens_inside_the_tunnel_is_the_providers(
    proxy: ConnectProxy, answers: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that nobody signed leaves the request unsent; a lost answer is in doubt."""
    answers[0] = b""
    async with http_client() as http:
        assert await send(http, REQUEST) == NoAnswer(sent=True, code="connection_lost")
    monkeypatch.setattr(transport, "tls_context", ssl.create_default_context)
    async with http_client() as http:
        assert await send(http, REQUEST) == NoAnswer(sent=False, code="unreachable")


async def test_a_name_that_leads_inside_is_not_asked_for(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine resolves to an internal address is no way around the check, unless the operator names it."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", 0))]
    real = asyncio.get_running_loop().getaddrinfo

    async def resolve(host: str, *args: Any, **options: Any) -> Any:
        return found if host == HOST else await real(host, *args, **options)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with http_client() as http:
        assert await send(http, REQUEST) == NoAnswer(sent=False, code="unreachable")
    assert proxy.asked == []
    async with http_client(named={HOST}) as http:
        assert isinstance(await send(http, REQUEST), Answer)


async def test_loopback_is_called_directly(proxy: ConnectProxy, answers: list[bytes]) -> None:
    """No proxy stands before what runs on this machine."""
    async with http_client(named={"localhost"}) as http:
        answer = await send(http, TokenRequest("GET", f"http://localhost:{answers[1].decode()}/", {}, None))
    assert isinstance(answer, Answer)
    assert proxy.asked == []


async def test_webhooks_key_sets_and_auth0_take_the_proxy(proxy: ConnectProxy, answers: list[bytes]) -> None:
    """Each is called through the tunnel, and says when it is the proxy that fails."""
    async with webhook_client() as http:
        assert (await post(http, REQUEST.url, b"{}", {})).status == 200
        answers[0] = answers[0].replace(b'{"access_token": "new"}', b'{"keys": []}            ')[:-1]
        assert await Jwks(f"https://{HOST}/jwks").key("any") is None
        assert len(proxy.asked) == 2
        proxy.failure = 502
        assert await post(http, REQUEST.url, b"{}", {}) == PostResult(None, "proxy_failed")
    credentials = Credentials(domain=HOST, client_id="id", client_secret=Secret("canary-secret"))
    retries = RetryPolicy(max_attempts=1)
    async with ManagementClient(credentials, MemoryTokenStore(), retries=retries) as auth0:
        with pytest.raises(Auth0Unreachable, match=f"outgoing proxy 127.0.0.1:{proxy.port}") as caught:
            await auth0.scopes()
    assert "canary" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_a_call_for_a_front_end_takes_the_proxy(proxy: ConnectProxy) -> None:
    """Its caller learns that the API does not answer, and the log that it is the proxy."""
    proxy.failure = 407
    ends_at = asyncio.get_running_loop().time() + 10
    call = ProxyCall("google", "GET", "/calendar", "", [], "/v1/proxy/google", ends_at)
    body = RequestBody(_nothing(), max_bytes=1, idle_seconds=1, ends_at=ends_at)
    settings = ProxySettings(base_url=f"https://{HOST}", allow=("GET /*",))
    with structlog.testing.capture_logs() as logs:
        async with open_session(10) as session:
            with pytest.raises(ApiProblem) as caught:
                await forward(session, settings, call, body, _Tokens())
    assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert caught.value.type.status == 503
    [event] = logs
    assert f"the outgoing proxy 127.0.0.1:{proxy.port}" in event["error"]
    assert "canary" not in f"{caught.value} {logs}"


class _Tokens:
    async def current(self) -> Secret:
        return Secret("canary-token")

    async def replace(self) -> Secret:
        raise NotImplementedError

    async def report_rejected(self) -> None:
        raise NotImplementedError


async def _nothing() -> AsyncGenerator[bytes, None]:
    yield b""


async def test_a_failure_carries_no_credentials(proxy: ConnectProxy) -> None:
    """Neither the error nor what it is chained to holds the password."""
    proxy.failure = 407
    async with httpx.AsyncClient(transport=transport.HttpTransport()) as http:
        with pytest.raises(transport.OutgoingProxyFailed) as caught:
            await http.get(f"https://{HOST}/")
    error: BaseException | None = caught.value
    while error is not None:
        assert not isinstance(error, aiohttp.ClientResponseError)
        error = error.__cause__ or error.__context__
