"""The proxy against a provider's API that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from tests.support.proxied_api import ORIGIN, PATH, RECONNECT_SECRET, Proxied, problem
from tests.support.readers import on_demand_worker
from tests.support.scripted_upstream import Received, http
from tests.support.synced_user import CONNECTION, USER
from worker.cli import app
from worker.reconnect import read_state

TRICKS = (
    "/calendar/v3/../../admin", "/calendar/v3/%2e%2e/admin", "/calendar/v3//admin", "/calendar/v3/a%2fb",
    "/calendar/v3/a%5cb", "/calendar/v3/a;b", "/calendar/v3/%252e%252e/a", "/calendar/v3/a%00", "/admin", "/",
    "//calendar/v3/a", "/calendar/v3/a?access_token=x", "/calendar/v3/a?$httpMethod=DELETE", "/calendar/v3/%ff",
    "/calendar/v3/ÿ", "", "/calendar/v3", "/calendar/v3/../v3/../../x", "/%63alendar/v3/../x", "/\\evil/x",
)  # fmt: skip


async def test_a_front_end_calls_the_provider_without_its_token(proxied: Proxied) -> None:
    """The provider sees its own token and the call; the caller sees the answer and no token."""
    proxied.upstream.answer = lambda got: http(
        201, json.dumps({"got": got.body.decode()}).encode(), "Content-Type: application/json", "ETag: 1"
    )
    answer = await proxied.call(
        "/calendar/v3/calendars/a%40b.example/events?q=%20x&k=a%2Fb",
        "POST",
        content=b'{"summary": "x"}',
        headers={
            "Content-Type": "application/json",
            "If-Match": "1",
            "Cookie": "a=b",
            "X-Forwarded-For": "1.1.1.1",
        },
    )
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"got": '{"summary": "x"}'}
    assert (answer.headers["etag"], answer.headers["cache-control"]) == ("1", "no-store")
    (got,) = proxied.upstream.received
    assert (got.method, got.target) == ("POST", "/calendar/v3/calendars/a@b.example/events?q=%20x&k=a%2Fb")
    assert got.token.startswith("ya29.") or len(got.token) > 10
    assert (got.all("if-match"), got.all("content-type")) == (["1"], ["application/json"])
    assert not got.all("cookie")
    assert not got.all("x-forwarded-for")
    assert got.all("host") == [urlsplit(proxied.upstream.url).netloc]
    assert got.token not in answer.text + str(answer.headers)


async def test_a_proxied_call_is_in_the_audit(
    proxied: Proxied, sql: Callable[..., list[dict[str, Any]]]
) -> None:
    """Each read for a front end is recorded, under the application that called."""
    assert (await proxied.call(headers={"X-Request-Id": "r1"})).status_code == 200
    for _ in range(500):
        if found := sql("SELECT consumer, user_id, connection, outcome, request_id FROM audit_records"):
            break
        await asyncio.sleep(0.02)
    assert found == [
        {
            "consumer": "proxy:spa",
            "user_id": USER,
            "connection": CONNECTION,
            "outcome": "served",
            "request_id": "r1",
        }
    ]


async def test_no_path_trick_reaches_the_provider(proxied: Proxied) -> None:
    """What no rule allows is refused before anything is sent, byte for byte as it came."""
    for prefix, path in product(
        (PATH, f"http://evil.example{PATH}", PATH.replace("proxy", "%70roxy")), TRICKS
    ):
        answer = await proxied.raw(f"{prefix}{path}")
        assert answer.split(b" ")[1] in (b"400", b"403", b"404"), (prefix, path, answer)
        assert proxied.upstream.received == [], (prefix, path)


async def test_an_encoded_rule_is_still_the_rule(proxied: Proxied) -> None:
    """A path that is written in another way is the same path, and is sent as it was matched."""
    assert b" 200 " in await proxied.raw(f"{PATH}/%63alendar/v3/%61")
    assert [got.target for got in proxied.upstream.received] == ["/calendar/v3/a"]


async def test_a_method_that_no_rule_allows_is_refused(proxied: Proxied) -> None:
    """Nothing is forwarded by a method without a rule."""
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"):
        answer = await proxied.raw(f"{PATH}/calendar/v3/a", method)
        assert answer.split(b" ")[1] in (b"400", b"403", b"405"), method
        assert proxied.upstream.received == [], method


async def test_who_is_no_user_is_refused(proxied: Proxied) -> None:
    """Without a user's access token with the scope nothing is forwarded."""
    tokens = {
        "x": "invalid-token",
        proxied.issuer.access_token(USER, scope="openid"): "not-allowed",
        proxied.issuer.access_token("app@clients", gty="client-credentials"): "not-allowed",
        proxied.issuer.access_token(USER, aud="other"): "invalid-token",
    }
    for token, code in tokens.items():
        answer = await proxied.call(headers={"Authorization": f"Bearer {token}"})
        assert problem(answer) == code
    answer = await proxied.call(
        headers={"Authorization": f"Bearer {proxied.issuer.access_token('oauth2|other')}"}
    )
    assert problem(answer) == "not-connected"
    assert proxied.upstream.received == []


def _echo(encode: Callable[[bytes], bytes]) -> Callable[[Received], Iterable[bytes]]:
    def answer(got: Received) -> Iterable[bytes]:
        token = encode(got.token.encode())
        half = len(token) // 2
        yield b"HTTP/1.1 200 OK\r\nX-Echo: " + token + b"\r\nX-Other: 1\r\nSet-Cookie: t=" + token + b"\r\n"
        yield b"Connection: close\r\n\r\n" + b"a" * 70_000 + token[:half]
        yield token[half:] + b"b" * 70_000 + token + b"c"

    return answer


@pytest.mark.parametrize(
    "encode",
    [
        bytes,
        lambda raw: quote(raw).replace(".", "%2e").encode(),
        base64.b64encode,
        lambda raw: raw.hex().encode(),
    ],
    ids=["plain", "percent", "base64", "hexadecimal"],
)
async def test_an_echoed_token_never_reaches_the_caller(
    proxied: Proxied, encode: Callable[[bytes], bytes]
) -> None:
    """A token that the provider repeats, split over packets as well, is taken out of headers and body."""
    proxied.upstream.answer = _echo(encode)
    answer = await proxied.call()
    token = proxied.upstream.received[0].token.encode()
    assert answer.content == b"a" * 70_000 + b"[removed]" + b"b" * 70_000 + b"[removed]" + b"c"
    assert encode(token) not in str(answer.headers.raw).encode()
    assert (answer.headers.get("x-echo"), answer.headers.get("set-cookie")) == (None, None)
    assert answer.headers["x-other"] == "1"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_echo_is_found_too(proxied: Proxied, encoding: str) -> None:
    """A provider that compresses without being asked is read, decoded and searched."""

    def answer(got: Received) -> Iterable[bytes]:
        pack = gzip.compress if encoding == "gzip" else zlib.compress
        yield from http(200, pack(b"<" + got.token.encode() + b">"), f"Content-Encoding: {encoding}")

    proxied.upstream.answer = answer
    found = await proxied.call(headers={"Accept-Encoding": "gzip, br", "Range": "bytes=0-9"})
    assert found.content == b"<[removed]>"
    assert "content-encoding" not in found.headers
    (got,) = proxied.upstream.received
    assert (got.all("accept-encoding"), got.all("range")) == (["identity"], [])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda _: http(200, b"x", "Content-Encoding: br"), "bad-gateway"),
        (lambda _: http(200, b"x", "Content-Encoding: gzip, gzip"), "bad-gateway"),
        (lambda _: http(200, b"data: x\n\n", "Content-Type: text/event-stream"), "bad-gateway"),
        (
            lambda _: http(200, b"x", "Content-Type: text/plain", "Content-Type: Text/Event-Stream"),
            "bad-gateway",
        ),
        (
            lambda _: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + gzip.compress(b"x")],
            "bad-gateway",
        ),
        (
            lambda _: [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ],
            "bad-gateway",
        ),
        (lambda _: http(200, b"x", length=10_000_000), "bad-gateway"),
        (lambda _: [b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"], None),
        (lambda _: [b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"], "bad-gateway"),
        (lambda _: [], "temporarily-unavailable"),
        (lambda _: [b"SSH-2.0-OpenSSH_9.6\r\n"], "temporarily-unavailable"),
        (lambda _: [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"], "temporarily-unavailable"),
    ],
)
async def test_an_answer_that_cannot_be_passed_on_is_a_problem(
    proxied: Proxied, answer: Callable[[Received], Iterable[bytes]], code: str | None
) -> None:
    """No half answer and no 500: a problem document says what the provider did, and a write is sent once."""
    proxied.upstream.answer = answer
    found = await proxied.call(method="POST")
    assert problem(found) in ((code,) if code else ("bad-gateway", "temporarily-unavailable"))
    assert found.status_code in (502, 503)
    assert len(proxied.upstream.received) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: http(200, b"x" * 1000, length=2000),
        lambda _: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n"],
        lambda _: [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *(b"x" * 100_000 for _ in range(30))],
        lambda _: http(200, gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"),
        lambda _: http(200, gzip.compress(b"x" * 1000)[:-9], "Content-Encoding: gzip"),
        lambda _: http(200, b"no gzip", "Content-Encoding: gzip"),
    ],
    ids=["short", "unfinished chunks", "endless", "bomb", "cut gzip", "no gzip"],
)
async def test_a_body_that_breaks_off_does_not_look_whole(
    proxied: Proxied, answer: Callable[[Received], Iterable[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A body that ends early or grows too long breaks the caller's connection instead of ending."""
    proxied.upstream.answer = answer
    with pytest.raises(httpx.RemoteProtocolError):
        await proxied.call()
    logged = capsys.readouterr().out
    assert "proxy.answer_broken" in logged
    assert "request.failed" not in logged


async def test_a_dead_provider_is_a_problem(proxied: Proxied) -> None:
    """An API that cannot be reached, or is silent, answers as a problem with a time to come back."""
    silent = asyncio.Event()

    def answer(_: Received) -> Iterable[bytes]:
        while not silent.is_set():
            yield b""

    proxied.upstream.answer = answer
    found = await proxied.call()
    silent.set()
    assert problem(found) == "temporarily-unavailable"
    assert found.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/calendar/v3/b?c=d", f"{PATH}/calendar/v3/b?c=d"),
        ("https://evil.example/calendar", None),
        ("//evil.example/x", None),
        ("/calendar/v3/%2e%2e/x", None),
        ("/calendar/v3/b?token=TOKEN", None),
    ],
)
async def test_redirects_are_not_followed(proxied: Proxied, location: str, expected: str | None) -> None:
    """A redirect of the same API leads through the proxy; any other, or one with the token, loses its ``Location``."""
    proxied.upstream.answer = lambda got: http(
        302, b"", f"Location: {location.replace('TOKEN', got.token)}", "Refresh: 0;url=https://evil.example"
    )
    found = await proxied.call()
    assert found.status_code == 302
    assert found.headers.get("location") == expected
    assert "refresh" not in found.headers
    assert len(proxied.upstream.received) == 1


async def test_a_refused_token_is_replaced_once(proxied: Proxied) -> None:
    """After a 401 the token is renewed and the request sent again; neither token reaches the caller."""
    used: list[str] = []

    def answer(got: Received) -> Iterable[bytes]:
        used.append(got.token)
        if len(used) == 1:
            return http(401, b"bad", 'WWW-Authenticate: Bearer error="invalid_token"')
        return http(200, f"{used[0]} {used[1]} {got.body.decode()}".encode())

    proxied.upstream.answer = answer
    async with on_demand_worker(proxied.runtime):
        found = await proxied.call(method="POST", content=b"again")
    assert found.content == b"[removed] [removed] again"
    assert len(set(used)) == 2


async def test_a_provider_that_refuses_every_token_is_asked_twice(proxied: Proxied) -> None:
    """The second 401 is the answer, without the provider's challenge; a 403 says nothing of the token."""
    proxied.upstream.answer = lambda _: http(403, b"no")
    async with on_demand_worker(proxied.runtime):
        assert (await proxied.call(method="POST", content=b"x")).status_code == 403
        assert len(proxied.upstream.received) == 1
        proxied.upstream.answer = lambda _: http(401, b"bad", "WWW-Authenticate: Bearer")
        found = await proxied.call()
    assert (found.status_code, found.content) == (401, b"bad"), found.text
    assert "www-authenticate" not in found.headers
    assert len(proxied.upstream.received) == 3


async def test_without_a_worker_the_providers_answer_stands(proxied: Proxied) -> None:
    """Where no other token comes in time, the caller gets the provider's 401."""
    proxied.upstream.answer = lambda _: http(401, b"bad")
    found = await proxied.call()
    assert (found.status_code, found.content) == (401, b"bad")
    assert len(proxied.upstream.received) == 1


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_bodies_stream_in_both_directions(proxied: Proxied) -> None:
    """A long body passes, with its length or in chunks; it is not sent twice."""
    body = b"x" * 900_000
    proxied.upstream.answer = lambda got: http(200, got.body)
    found = await proxied.call(method="POST", content=body)
    assert found.content == body
    assert proxied.upstream.received[0].all("content-length") == ["900000"]
    found = await proxied.call(method="POST", content=_parts(*[b"y" * 90_000] * 10))
    assert found.content == b"y" * 900_000
    proxied.upstream.answer = lambda got: http(401, b"")
    async with on_demand_worker(proxied.runtime):  # there would be another token to send it with
        assert (await proxied.call(method="POST", content=body)).status_code == 401
    assert len(proxied.upstream.received) == 3


async def test_a_long_request_is_refused(proxied: Proxied) -> None:
    """A body over the limit is refused, whether its length is said or not."""
    for content in (b"x" * 1_000_001, _parts(*[b"y" * 100_000] * 12)):
        assert problem(await proxied.call(method="POST", content=content)) == "too-large"
    assert problem(await proxied.call(headers={"X-Token-Vault-Account": "x" * 501})) == "bad-request"


async def test_a_caller_who_goes_away_is_no_failure(
    proxied: Proxied, capsys: pytest.CaptureFixture[str]
) -> None:
    """A body that breaks off, or is none, is the caller's doing: nothing fails, and no provider is blamed."""
    place = urlsplit(proxied.url)
    head = f"POST {PATH}/calendar/v3/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {proxied.issuer.access_token(USER)}\r\n"
    rejected = head.replace(f"{PATH}/calendar/v3/a", "/v1/hooks/auth0")
    chunked = "Transfer-Encoding: chunked\r\n\r\n"
    for sent in (
        f"{head}Content-Length: 300\r\n\r\nhalf",
        f"{head}Content-Length: 600000\r\n\r\n{'x' * 500_000}",
        f"{rejected}Authorization-2: x\r\nContent-Length: 300\r\n\r\nhalf",
        f"{head}{chunked}4\r\nhalf\r\n",
        f"{head}{chunked}no size\r\n",
    ):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(sent.encode())
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        del reader
    for _ in range(500):
        shown = (await proxied.http.get(f"{proxied.url}/metrics")).text
        if "in_flight 1.0" in shown:
            break
        await asyncio.sleep(0.02)
    assert 'status="500"' not in shown
    assert 'status="503"' not in shown
    logged = capsys.readouterr().out
    assert "request.failed" not in logged
    assert "proxy.call_failed" not in logged


async def test_streams_without_end_are_refused_in_words(proxied: Proxied) -> None:
    """Websockets and server-sent events are refused before anything is sent."""
    for accepted in (
        [("Accept", "text/event-stream")],
        [("Accept", "*/*"), ("Accept", "application/json, Text/Event-Stream;q=0.5")],
    ):
        token = ("Authorization", f"Bearer {proxied.issuer.access_token(USER)}")
        answer = await proxied.http.get(f"{proxied.url}{PATH}/calendar/v3/a", headers=[token, *accepted])
        assert problem(answer) == "bad-request"
        assert "server-sent events" in answer.json()["detail"]
    raw = await proxied.raw(
        f"{PATH}/calendar/v3/a",
        "GET",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    )
    assert b"websockets" in raw
    assert proxied.upstream.received == []


async def test_only_configured_origins_may_call_from_a_browser(proxied: Proxied) -> None:
    """A preflight of a configured origin passes without a token; others get no leave."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = await proxied.http.options(
        f"{proxied.url}{PATH}/calendar/v3/a", headers={"Origin": ORIGIN, **asked}
    )
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in allowed.headers
    foreign = await proxied.http.options(
        f"{proxied.url}{PATH}/calendar/v3/a", headers={"Origin": "https://evil.example", **asked}
    )
    assert "access-control-allow-origin" not in foreign.headers
    proxied.upstream.answer = lambda _: http(200, b"{}", "Access-Control-Allow-Origin: *")
    for path in ("/calendar/v3/a", "/admin"):
        answer = await proxied.call(path, headers={"Origin": ORIGIN})
        assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
    assert len(proxied.upstream.received) == 1


async def test_a_head_or_empty_answer_has_no_body(proxied: Proxied) -> None:
    """HEAD and 204 pass as they are."""
    proxied.upstream.answer = lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: x\r\n\r\n"]
    assert (await proxied.call(method="HEAD")).headers["etag"] == "x"
    proxied.upstream.answer = lambda _: [b"HTTP/1.1 204 No Content\r\n\r\n"]
    assert (await proxied.call(method="DELETE")).status_code == 204


async def test_a_user_who_has_to_act_gets_the_link(
    proxied: Proxied, sql: Callable[..., list[dict[str, Any]]]
) -> None:
    """The problem document and the route lead to Auth0, with a state that names the grant."""
    sql(
        "UPDATE grants SET state = 'reauthorization_required', due_at = NULL, reason = 'invalid_grant',"
        " expires_at = now(), reason_since = now()"
    )
    failed = await proxied.call()
    assert problem(failed) == "consent-needed"
    headers = {"Authorization": f"Bearer {proxied.issuer.access_token(USER)}"}
    url = f"{proxied.url}/v1/users/{quote(USER)}/reconnect/{CONNECTION}"
    asked = await proxied.http.get(url, params={"needs": "more"}, headers=headers)
    for link in (failed.json()["reauthorize_url"], asked.json()["reauthorize_url"]):
        query = dict(parse_qsl(urlsplit(link).query))
        assert (query["client_id"], query["connection"], query["prompt"]) == (
            "web-app",
            CONNECTION,
            "consent",
        )
        state = read_state(query["state"], RECONNECT_SECRET, datetime.now(UTC))
        assert (state.user_id, state.connection, state.tenant) == (USER, CONNECTION, "default")
    assert "more" in query["connection_scope"].split(",")
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    for origin, seen in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        for answer in (
            await proxied.http.options(url, headers=preflight | {"Origin": origin}),
            await proxied.http.get(url, headers=headers | {"Origin": origin}),
        ):
            assert answer.headers.get("access-control-allow-origin") == seen
    other = {"Authorization": f"Bearer {proxied.issuer.access_token('oauth2|other')}"}
    assert problem(await proxied.http.get(url, headers=other)) == "not-allowed"
    assert proxied.upstream.received == []


async def test_the_command_prints_the_link(proxied: Proxied) -> None:
    """``token-vault reconnect`` prints the link alone."""
    found = await asyncio.to_thread(
        CliRunner().invoke, app, ["reconnect", "--user", USER, "--connection", CONNECTION]
    )
    assert found.stdout.count("\n") == 1, found.output
    query = dict(parse_qsl(urlsplit(found.stdout.strip()).query))
    assert read_state(query["state"], RECONNECT_SECRET, datetime.now(UTC)).user_id == USER
