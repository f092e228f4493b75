"""A renewal request against servers that fail in every way: what is said of it must be right each time.

«Not sent» is said only where the refresh token provably never left, because it is then sent again without a thought.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import struct
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ports import free_port
from tests.support.wait import WAIT_SECONDS
from worker.providers import TokenRequest
from worker.renewal import http as sending
from worker.renewal.http import Answer, HttpClient, NoAnswer, _parse, http_client, send

BODY = b"grant_type=refresh_token&refresh_token=the-refresh-token"
PAIR = b'{"access_token": "new", "refresh_token": "newer", "expires_in": 3600}'


class Line:
    """One connection to the server: what the client wrote, and the ways to answer or break it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Read one whole request; b"" where the client has left."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]  # a GET has none
        return head + await self._reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)

    async def write(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def answer(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        await self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """Break off so that the client sees a reset, not a tidy end."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Server:
    """Lets a test play the provider, connection by connection, and counts what came."""

    def __init__(self, play: Callable[[Line, Server], Awaitable[None]]) -> None:
        self._play = play
        self.url = ""
        self.connections = 0
        self.requests: list[bytes] = []

    async def read(self, line: Line) -> bytes:
        if request := await line.read():
            self.requests.append(request)
        return request

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._play(Line(reader, writer), self)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


Serve = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def serving(
    play: Callable[[Line, Server], Awaitable[None]], tls: ssl.SSLContext | None
) -> AsyncIterator[Server]:
    server, tasks = Server(play), set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(server.accept(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/token"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            play: Callable[[Line, Server], Awaitable[None]], tls: ssl.SSLContext | None = None
        ) -> Server:
            return await stack.enter_async_context(serving(play, tls))

        yield start


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    """The worker's own client, in a hurry."""
    async with http_client() as client:
        client.timeout = httpx.Timeout(0.5, connect=0.3, pool=0.4)
        yield client


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def post(url: str) -> TokenRequest:
    return TokenRequest("POST", url, {"Content-Type": "application/x-www-form-urlencoded"}, BODY)


async def answers(line: Line, server: Server) -> None:
    while await server.read(line):
        await line.answer(PAIR, "200 OK", "Content-Type: application/json")


# What never left


async def test_a_refused_connection_is_not_sent(http: HttpClient) -> None:
    """A refused connection never spent the refresh token."""
    result = await send(http, post(f"http://127.0.0.1:{free_port()}/token"))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_an_unknown_host_is_not_sent(http: HttpClient) -> None:
    """A host that does not resolve got nothing."""
    http.timeout = httpx.Timeout(0.5, connect=0.3, pool=5)
    result = await send(http, post("http://no-such-host.invalid/token"))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_a_host_that_never_accepts_is_not_sent(http: HttpClient) -> None:
    """Packets that vanish before the connection stands carry no request."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # the one place in the queue is taken, further connections are not answered
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            result = await send(http, post(f"http://127.0.0.1:{port}/token"))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_a_certificate_nobody_signed_is_not_sent(
    http: HttpClient, serve: Serve, certificate: ssl.SSLContext
) -> None:
    """A server that cannot prove who it is gets no token."""
    server = await serve(answers, certificate)
    result = await send(http, post(server.url))
    assert result == NoAnswer(sent=False, code="unreachable")
    assert server.requests == []


async def test_a_broken_tls_handshake_is_not_sent(http: HttpClient, serve: Serve) -> None:
    """A connection lost in the TLS handshake carried no request."""

    async def break_off(line: Line, server: Server) -> None:
        line.reset()

    server = await serve(break_off)
    result = await send(http, post(server.url.replace("http:", "https:")))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_plain_http_behind_an_https_address_is_not_sent(http: HttpClient, serve: Serve) -> None:
    """A server that answers the TLS handshake with something else got no request."""

    async def babble(line: Line, server: Server) -> None:
        await line.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await serve(babble)
    result = await send(http, post(server.url.replace("http:", "https:")))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_a_silent_tls_handshake_is_not_sent(http: HttpClient, serve: Serve) -> None:
    """A server that accepts and never begins TLS got no request."""
    http.timeout = httpx.Timeout(5, connect=0.2, pool=0.3)
    server = await serve(lambda line, _: asyncio.sleep(60))
    result = await send(http, post(server.url.replace("http:", "https:")))
    assert result == NoAnswer(sent=False, code="unreachable")


async def test_waiting_for_a_free_connection_is_not_sending(serve: Serve) -> None:
    """A request that never got a connection of its own was not sent, however long it waited."""
    arrived = asyncio.Event()

    async def hang(line: Line, server: Server) -> None:
        await server.read(line)
        arrived.set()
        await asyncio.sleep(60)

    server = await serve(hang)
    async with http_client(connections=1) as http:
        http.timeout = httpx.Timeout(5, pool=0.1)
        first = asyncio.create_task(send(http, post(server.url)))
        await arrived.wait()
        assert await send(http, post(server.url)) == NoAnswer(sent=False, code="unreachable")
        first.cancel()
    assert len(server.requests) == 1


async def test_connecting_gives_up_well_before_the_whole_call() -> None:
    """The wait for a connection ends before the call's time is up: afterwards nobody could say what was sent."""
    async with http_client() as client:
        assert client.timeout.pool is not None
        assert client.timeout.connect is not None
        assert max(client.timeout.pool, client.timeout.connect) <= sending.CALL_SECONDS / 2


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://127.0.0.1/token", "nonsense", "http:///token", "http://[::/token"),
        *("https://login..example/token", "https://.example/token", "https://xn--.example/token"),
        f"https://{'a' * 64}.example/token",
    ],
)
async def test_what_is_no_address_is_not_sent(http: HttpClient, url: str) -> None:
    """An address that cannot be used is a mistake in the settings, not a doubt."""
    result = await send(http, post(url))
    assert isinstance(result, NoAnswer)
    assert not result.sent


# What may have arrived


async def test_a_reset_before_the_request_was_read_is_in_doubt(http: HttpClient, serve: Serve) -> None:
    """A connection that stood and broke may have carried the request: the client cannot know it was not read."""

    async def break_off(line: Line, server: Server) -> None:
        line.reset()

    server = await serve(break_off)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")


async def test_a_reset_after_the_request_was_read_is_in_doubt(http: HttpClient, serve: Serve) -> None:
    """A reset instead of an answer leaves the outcome unknown, and the request is not sent a second time."""

    async def break_off(line: Line, server: Server) -> None:
        await server.read(line)
        line.reset()

    server = await serve(break_off)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_tidy_end_without_an_answer_is_in_doubt(http: HttpClient, serve: Serve, method: str) -> None:
    """A connection closed without an answer leaves the outcome unknown; nothing is repeated, a GET neither."""

    async def close(line: Line, server: Server) -> None:
        await server.read(line)

    server = await serve(close)
    request = TokenRequest(method, server.url, {}, BODY if method == "POST" else None)
    assert await send(http, request) == NoAnswer(sent=True, code="connection_lost")
    assert len(server.requests) == 1


async def test_silence_is_in_doubt(http: HttpClient, serve: Serve) -> None:
    """A read time-out says nothing about whether the provider carried the request out."""

    async def hang(line: Line, server: Server) -> None:
        await server.read(line)
        await asyncio.sleep(60)

    http.timeout = httpx.Timeout(30, read=0.1)
    server = await serve(hang)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="timeout")


async def test_silence_behind_tls_is_in_doubt(
    serve: Serve, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection closed after TLS stood may have carried the request."""

    async def close(line: Line, server: Server) -> None:
        await server.read(line)

    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    monkeypatch.setattr("worker.http.transport.tls_context", lambda: trusting)
    server = await serve(close, certificate)
    async with http_client() as http:
        assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")
    assert len(server.requests) == 1


async def test_a_dripping_answer_ends_with_the_whole_call(
    http: HttpClient, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that drips in, byte by byte and never late, does not outlast the time of a whole call."""

    async def drip(line: Line, server: Server) -> None:
        await server.read(line)
        await line.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await line.write(b" ")
            await asyncio.sleep(0.02)

    monkeypatch.setattr(sending, "CALL_SECONDS", 1)
    monkeypatch.setattr(sending, "DRAIN_SECONDS", 0.1)
    server = await serve(drip)
    began = asyncio.get_running_loop().time()
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="timeout")
    assert asyncio.get_running_loop().time() - began < WAIT_SECONDS


async def test_an_answer_that_is_arriving_is_read_although_time_is_up(
    http: HttpClient, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was paused beyond the call's time still takes the answer that is there or on its way."""

    async def answer_around_a_pause(line: Line, server: Server) -> None:
        await server.read(line)
        await line.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAIR) + PAIR[:10])
        time.sleep(0.8)  # noqa: ASYNC251  # the whole process stands still
        await asyncio.sleep(0.05)
        await line.write(PAIR[10:])

    monkeypatch.setattr(sending, "CALL_SECONDS", 0.7)
    http.timeout = httpx.Timeout(None)
    server = await serve(answer_around_a_pause)
    result = await send(http, post(server.url))
    assert isinstance(result, Answer)
    assert result.body == PAIR


async def test_nothing_is_written_when_the_claim_has_run_out_while_connecting(
    http: HttpClient, serve: Serve
) -> None:
    """Time is looked at once more when the connection stands: a process that was paused there sends nothing."""
    server = await serve(answers)
    result = await send(http, post(server.url), lambda: False)
    assert result == NoAnswer(sent=False, code="too_late")
    assert isinstance(await send(http, post(server.url), lambda: True), Answer)
    assert len(server.requests) == 1


async def test_a_cancelled_call_lets_go_of_its_connection(http: HttpClient, serve: Serve) -> None:
    """A call that is cancelled leaves no request running behind."""
    arrived, left = asyncio.Event(), asyncio.Event()

    async def hang(line: Line, server: Server) -> None:
        await server.read(line)
        arrived.set()
        await line.read()  # ends when the client leaves
        left.set()

    http.timeout = httpx.Timeout(30)
    server = await serve(hang)
    calling = asyncio.create_task(send(http, post(server.url)))
    await arrived.wait()
    calling.cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        await left.wait()
    with pytest.raises(asyncio.CancelledError):
        await calling


@pytest.mark.parametrize("ending", ["reset", "closed", "silence"])
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 1000"])
async def test_a_pair_that_came_whole_is_taken_though_its_answer_never_ended(
    http: HttpClient, serve: Serve, monkeypatch: pytest.MonkeyPatch, framing: str, ending: str
) -> None:
    """A JSON object that is closed is all there, however the connection ends after it: it holds the only copy."""

    async def break_off(line: Line, server: Server) -> None:
        await server.read(line)
        chunk = b"%x\r\n%b\r\n" % (len(PAIR), PAIR) if "chunked" in framing else PAIR
        await line.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + chunk)
        await asyncio.sleep(0.1)
        if ending == "reset":
            line.reset()
        if ending == "silence":
            await asyncio.sleep(60)

    # Only silence lasts until then; the pair has to arrive before, on a busy machine too.
    monkeypatch.setattr(sending, "CALL_SECONDS", 2.0 if ending == "silence" else WAIT_SECONDS)
    monkeypatch.setattr(sending, "DRAIN_SECONDS", 0.1)
    http.timeout = httpx.Timeout(None)
    server = await serve(break_off)
    result = await send(http, post(server.url))
    assert isinstance(result, Answer)
    assert result.body == PAIR


@pytest.mark.parametrize("part", [PAIR[:-1], PAIR[:20], b"access_token=new&refresh_token=new", b"", b"[]"])
async def test_what_may_be_the_beginning_of_an_answer_is_in_doubt(
    http: HttpClient, serve: Serve, part: bytes
) -> None:
    """An answer that is cut short may have held the only copy of the new tokens, and any of them may be cut."""

    async def break_off(line: Line, server: Server) -> None:
        await server.read(line)
        await line.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + part)

    server = await serve(break_off)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")


async def test_a_huge_answer_is_not_read_on(http: HttpClient, serve: Serve) -> None:
    """No more of an answer is read than any token endpoint sends."""
    sent = 0

    async def flood(line: Line, server: Server) -> None:
        nonlocal sent
        await server.read(line)
        await line.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await line.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            sent += 0x10000

    server = await serve(flood)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="answer_too_large")
    assert sent < 32 * sending.MAX_ANSWER_BYTES


async def test_a_huge_answer_in_a_small_archive_is_not_read_on(http: HttpClient, serve: Serve) -> None:
    """An answer that grows on unpacking is cut at the same length, and takes no more memory than that."""
    packed = gzip.compress(bytes(64 << 20))

    async def bomb(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(packed, "200 OK", "Content-Encoding: gzip")

    server = await serve(bomb)
    tracemalloc.start()
    try:
        assert await send(http, post(server.url)) == NoAnswer(sent=True, code="answer_too_large")
        assert tracemalloc.get_traced_memory()[1] < 8 * sending.MAX_ANSWER_BYTES
    finally:
        tracemalloc.stop()


async def test_an_archive_in_an_archive_is_not_unpacked(http: HttpClient, serve: Serve) -> None:
    """Half a kilobyte that is packed twice is unreadable, and costs no memory."""

    async def bomb(line: Line, server: Server) -> None:
        await server.read(line)
        packed = gzip.compress(gzip.compress(bytes(64 << 20)))
        await line.answer(packed, "200 OK", "Content-Encoding: gzip, gzip")

    server = await serve(bomb)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")
    assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot-hex\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_is_in_doubt(http: HttpClient, serve: Serve, raw: bytes) -> None:
    """Whatever came back, something read the request: it may have been carried out."""

    async def babble(line: Line, server: Server) -> None:
        await server.read(line)
        await line.write(raw)

    server = await serve(babble)
    result = await send(http, post(server.url))
    assert isinstance(result, NoAnswer)
    assert result.sent


# Connections that are kept


async def test_a_connection_closed_while_idle_is_not_used_again(http: HttpClient, serve: Serve) -> None:
    """A kept connection that the provider has closed is replaced before anything is sent into it."""
    closed = asyncio.Event()

    async def one_each(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(PAIR)
        closed.set()

    server = await serve(one_each)
    for _ in range(2):
        closed.clear()
        assert isinstance(await send(http, post(server.url)), Answer)
        await closed.wait()
        await asyncio.sleep(0.02)  # the end of the connection has to arrive
    assert server.connections == len(server.requests) == 2


async def test_a_kept_connection_that_breaks_under_a_request_is_in_doubt(
    http: HttpClient, serve: Serve
) -> None:
    """A request sent into a kept connection that is just closing is in doubt, and not sent again by itself."""

    async def one_and_no_more(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(PAIR)
        await server.read(line)
        line.reset()

    server = await serve(one_and_no_more)
    assert isinstance(await send(http, post(server.url)), Answer)
    assert await send(http, post(server.url)) == NoAnswer(sent=True, code="connection_lost")
    assert (server.connections, len(server.requests)) == (1, 2)


async def test_an_idle_connection_is_given_up_before_providers_do(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was idle for a while is not used again, so that the race with its closing is rare."""
    server = await serve(answers)
    async with http_client() as http:
        await send(http, post(server.url))
        await send(http, post(server.url))
    assert server.connections == 1
    monkeypatch.setattr(sending, "KEEPALIVE_SECONDS", 0.01)
    async with http_client() as http:
        await send(http, post(server.url))
        await asyncio.sleep(0.05)
        await send(http, post(server.url))
    assert server.connections == 3


# What an answer is


async def test_an_answer_comes_back_whole(http: HttpClient, serve: Serve) -> None:
    """Status, headers and body arrive as they were sent, and the request as it was built."""
    server = await serve(answers)
    result = await send(http, post(server.url))
    assert isinstance(result, Answer)
    assert (result.status, result.headers["content-type"], result.body) == (200, "application/json", PAIR)
    assert server.requests[0].startswith(b"POST /token HTTP/1.1\r\n")
    assert server.requests[0].endswith(b"\r\n\r\n" + BODY)


async def test_a_packed_answer_is_unpacked(http: HttpClient, serve: Serve) -> None:
    """A provider may compress its answer."""

    async def pack(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(gzip.compress(PAIR), "200 OK", "Content-Encoding: gzip")

    server = await serve(pack)
    result = await send(http, post(server.url))
    assert isinstance(result, Answer)
    assert result.body == PAIR


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent"])
async def test_a_redirect_is_not_followed(http: HttpClient, serve: Serve, status: str) -> None:
    """A refresh token goes to the address it was meant for and nowhere else."""
    elsewhere = await serve(answers)

    async def redirect(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(b"", status, f"Location: {elsewhere.url}")

    server = await serve(redirect)
    result = await send(http, post(server.url))
    assert isinstance(result, Answer)
    assert result.status == int(status[:3])
    assert elsewhere.connections == 0


async def test_a_request_says_who_sends_it(http: HttpClient, serve: Serve) -> None:
    """Each request names the vault and asks for a plain answer; what the provider's declaration says counts more."""

    async def answer(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(PAIR)

    server = await serve(answer)
    request = TokenRequest("POST", server.url, {"Accept": "application/json", "Content-Type": "a/b"}, b"x")
    assert isinstance(await send(http, request), Answer)
    [sent] = server.requests
    head = sent.decode().lower().splitlines()
    assert {"accept: application/json", "content-type: a/b", "accept-encoding: identity"} <= set(head)
    assert [line for line in head if line.startswith("user-agent: idp-token-vault/")]
    assert sum(line.startswith("accept:") for line in head) == 1


async def test_a_url_that_holds_a_token_is_not_kept(http: HttpClient, serve: Serve) -> None:
    """The parsed URL of a POST is kept for the next call, that of a GET is not: its parameters hold the token."""

    async def answer(line: Line, server: Server) -> None:
        while await server.read(line):
            await line.answer(PAIR)

    server = await serve(answer)
    _parse.cache_clear()
    await send(http, TokenRequest("GET", f"{server.url}?access_token=canary", {}, None))
    assert _parse.cache_info().currsize == 0
    await send(http, post(server.url))
    assert _parse.cache_info().currsize == 1


async def test_no_cookie_is_kept(http: HttpClient, serve: Serve) -> None:
    """What a provider sets for one user's renewal is not sent with the next user's."""

    async def set_cookie(line: Line, server: Server) -> None:
        while await server.read(line):
            await line.answer(PAIR, "200 OK", "Set-Cookie: session=of-the-first-user; Path=/")

    server = await serve(set_cookie)
    await send(http, post(server.url))
    await send(http, post(server.url))
    assert b"of-the-first-user" not in server.requests[1]


async def test_no_proxy_stands_before_loopback(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outgoing proxy does not get to see what stays on this machine."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    server = await serve(answers)
    async with http_client() as http:
        assert isinstance(await send(http, post(server.url)), Answer)


async def test_an_answer_prints_without_its_tokens() -> None:
    """An answer in a log or a traceback shows nothing but its size."""
    assert repr(Answer(200, {"set-cookie": "secret"}, PAIR)) == f"Answer(200, {len(PAIR)} bytes)"


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(PAIR), []),
        (gzip.compress(PAIR), ["Content-Encoding: GZIP"]),
        (raw_deflate(PAIR), ["Content-Encoding: deflate"]),
        (zlib.compress(PAIR), ["Content-Encoding: deflate"]),
        (PAIR, ["Content-Encoding: gzip"]),
        (PAIR, ["Content-Encoding: utf-8"]),
        (PAIR, ["Content-Encoding: aws-chunked"]),
        (PAIR, [f"Content-Security-Policy: {'a' * 20_000}"]),
        (PAIR, [f"X-{number}: x" for number in range(300)]),
    ],
    ids=["no label", "capitals", "raw deflate", "deflate", "false label", "charset", "unknown", "long header", "many headers"],
)  # fmt: skip
async def test_no_label_and_no_header_costs_the_answer(
    http: HttpClient, serve: Serve, body: bytes, headers: list[str]
) -> None:
    """What a server says of the body, or beside it, does not lose the only copy of a pair."""

    async def play(line: Line, server: Server) -> None:
        await server.read(line)
        await line.answer(body, "200 OK", *headers)

    server = await serve(play)
    answer = await send(http, post(server.url))
    assert isinstance(answer, Answer)
    assert answer.body == PAIR
