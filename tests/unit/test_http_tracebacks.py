"""No error of an HTTP client shows what was sent, whatever it is: its frames hold tokens and secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from tests.support.tracebacks import rendered
from token_vault.secret import Secret
from worker.api.proxy.call import ProxyCall
from worker.api.proxy.forward import forward
from worker.api.proxy.request_body import RequestBody
from worker.api.proxy.session import open_session
from worker.auth0 import Credentials, ManagementClient
from worker.auth0.http.retries import RetryPolicy
from worker.auth0.management_token import MemoryTokenStore
from worker.providers import TokenRequest
from worker.renewal.http import http_client, send
from worker.settings import ProxySettings

CANARY = "canary-Zk3vN8qLw0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0"


async def renew(port: int) -> None:
    """Send a token request."""
    request = TokenRequest(
        "POST", f"http://127.0.0.1:{port}/token", {"x-key": CANARY}, f"refresh_token={CANARY}".encode()
    )
    async with http_client(named={"127.0.0.1"}) as http:
        await send(http, request)


async def renew_by_get(port: int) -> None:
    """Send one whose URL holds the token."""
    async with http_client(named={"127.0.0.1"}) as http:
        await send(http, TokenRequest("GET", f"http://127.0.0.1:{port}/token?token={CANARY}", {}, None))


async def call_auth0(port: int) -> None:
    """Mint a management token."""
    credentials = Credentials(domain=f"http://127.0.0.1:{port}", client_id="id", client_secret=Secret(CANARY))
    async with ManagementClient(
        credentials, MemoryTokenStore(), retries=RetryPolicy(max_attempts=1)
    ) as auth0:
        await auth0.scopes()


class _Tokens:
    async def current(self) -> Secret:
        return Secret(CANARY)

    async def replace(self) -> Secret:
        raise NotImplementedError

    async def report_rejected(self) -> None:
        raise NotImplementedError


async def call_for_a_front_end(port: int) -> None:
    """Call a provider with a user's token."""
    ends_at = asyncio.get_running_loop().time() + 10

    async def nothing() -> AsyncGenerator[bytes, None]:
        yield b""

    call = ProxyCall("google", "GET", "/calendar", "", [], "/v1/proxy/google", ends_at)
    body = RequestBody(nothing(), max_bytes=1, idle_seconds=1, ends_at=ends_at)
    settings = ProxySettings(base_url=f"http://127.0.0.1:{port}", allow=("GET /*",))
    async with open_session(10) as session:
        await forward(session, settings, call, body, _Tokens())


CALLS: list[Callable[[int], Awaitable[None]]] = [renew, renew_by_get, call_auth0, call_for_a_front_end]


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    """Run a server that answers one request with nothing; yield its port."""
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError):  # the caller's error may come before its request
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        await ended.wait()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call.__name__))
async def test_an_error_that_nobody_expected_shows_nothing(
    call: Callable[[int], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the HTTP library is told with its place, and without the variables of its frames."""

    async def fail(*_: object) -> None:
        raise AttributeError("odd")

    monkeypatch.setattr(aiohttp.ClientResponse, "start", fail)
    async with server() as port:
        with pytest.raises(AttributeError, match="odd") as failed:
            await call(port)
    shown = rendered(failed.value)
    assert CANARY not in shown
    assert "raised at" in shown


async def test_a_provider_that_is_away_shows_no_token() -> None:
    """Nor does the problem that a front end is told."""
    with pytest.raises(Exception, match="does not answer") as failed:
        await call_for_a_front_end(1)
    assert CANARY not in rendered(failed.value)
