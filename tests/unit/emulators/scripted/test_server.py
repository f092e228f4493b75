"""The bytes of a scripted answer, and connections that break at any of them."""

import math
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from emulators.scripted import LIBRARY, ScriptedProvider, ScriptedServer, Shape, Trouble, serving
from emulators.scripted.script import Cut, Script, json_answer
from tests.support.wait import WAIT_SECONDS
from tests.unit.emulators.scripted.conftest import CLIENT, Present


def _shape(script: Script) -> Shape:
    return Shape("given", Trouble.NOBODY, carried_out=False, source="this test", write=lambda _: script)


def _received(server: ScriptedServer, body: bytes) -> tuple[bytes, bool]:
    """Give all bytes of an answer, and whether the connection was reset."""
    address = urlsplit(server.url)
    head = f"POST /acme/token HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    data = b""
    with socket.create_connection((address.hostname, address.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(head + body)
        try:
            while chunk := connection.recv(65536):
                data += chunk
        except ConnectionResetError:
            return data, True
    return data, False


@pytest.mark.parametrize(
    ("cut", "reset"),
    [
        ("before", True),
        ("mid_headers", True),
        ("after_headers", True),
        ("mid_body", True),
        ("short_body", False),
    ],
)
def test_cuts(provider: ScriptedProvider, server: ScriptedServer, cut: Cut, reset: bool) -> None:
    """A cut ends the connection there, by a reset or in an orderly way."""
    script = json_answer({"error": "x" * 1000}, 400, cut=cut)
    provider.queue(_shape(script))
    data, was_reset = _received(server, b"")
    assert was_reset == reset
    # A reset may overtake what was sent before it, so no more than this is certain.
    assert (script.head() + script.payload()).startswith(data)
    assert len(data) < len(script.head() + script.payload())


def test_an_orderly_end_comes_short(provider: ScriptedProvider, server: ScriptedServer) -> None:
    """A short body has all headers, and half of what they announce."""
    script = json_answer({"error": "x" * 1000}, 400, cut="short_body")
    provider.queue(_shape(script))
    data, _ = _received(server, b"")
    assert data == script.head() + script.payload()[: len(script.payload()) // 2]


def test_a_chunked_answer_can_be_cut(provider: ScriptedProvider, present: Present) -> None:
    """Half of the chunks, and then an orderly end, is an error of the protocol."""
    provider.queue(_shape(json_answer({"error": "x" * 100}, chunked=True, cut="short_body")))
    with pytest.raises(httpx.RemoteProtocolError):
        present("any")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_content_encodings(provider: ScriptedProvider, present: Present, encoding: str) -> None:
    """An encoded body is decoded to what the script has."""
    script = json_answer({"error": "y" * 100}).changed(content_encoding=encoding, chunked=True)
    provider.queue(_shape(script))
    answer = present("any")
    assert answer.headers["content-encoding"] == encoding
    assert answer.content == script.body


def test_headers_and_odd_statuses(provider: ScriptedProvider, present: Present) -> None:
    """Any status and header is sent, and replaces what would be there."""
    provider.queue(_shape(Script(529, b"{}", headers={"Retry-After": "7", "content-type": "a/b"})))
    answer = present("any")
    assert (answer.status_code, answer.reason_phrase) == (529, "Unnamed")
    assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("7", "a/b")


def test_a_connection_is_kept(provider: ScriptedProvider, server: ScriptedServer) -> None:
    """Requests follow each other on one connection."""
    address = urlsplit(server.url)
    request = b"POST /acme/token HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    provider.queue(*[_shape(Script(404, content_type=None))] * 2)
    with socket.create_connection((address.hostname, address.port), timeout=WAIT_SECONDS) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_connections_are_reset_before_they_are_read(
    provider: ScriptedProvider, server: ScriptedServer
) -> None:
    """A reset connection presents nothing, and the next one is served."""
    server.reset_connections(1)
    with pytest.raises(httpx.TransportError):
        httpx.get(server.token_url("acme"), trust_env=False)
    assert httpx.get(server.token_url("acme"), trust_env=False).status_code == 400
    assert len(provider.presentations()) == 1


def test_a_hanging_request_is_answered_when_released(
    provider: ScriptedProvider, server: ScriptedServer, present: Present
) -> None:
    """A request hangs until it is released."""
    provider.queue(LIBRARY["hanging"])
    token = provider.grants["ada"].refresh_token
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(present(token, timeout=WAIT_SECONDS)))
    caller.start()
    while not provider.presentations():
        time.sleep(0.01)
    assert answers == []
    server.release()
    caller.join(30)
    assert answers[0].json()["refresh_token"] == provider.grants["ada"].refresh_token


def test_a_hanging_request_does_not_stop_the_end() -> None:
    """The server ends while a request hangs."""
    provider = ScriptedProvider("acme")
    provider.add_client(*CLIENT)
    provider.queue(_shape(Script(delay=math.inf)))
    with serving(provider) as server, pytest.raises(httpx.ReadTimeout):
        httpx.get(server.token_url("acme"), timeout=0.2, trust_env=False)
    assert not [each for each in threading.enumerate() if each.name == "scripted-providers"]


def test_other_paths() -> None:
    """Each provider of a server has its own endpoint, and there is nothing else."""
    first, second = ScriptedProvider("first"), ScriptedProvider("second")
    with serving(first, second) as server:
        httpx.get(server.token_url("second"), trust_env=False)
        assert httpx.get(f"{server.url}/third/token", trust_env=False).status_code == 404
        assert httpx.get(f"{server.url}/first", trust_env=False).status_code == 404
    assert (len(first.ledger), len(second.ledger)) == (0, 1)
