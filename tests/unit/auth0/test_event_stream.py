"""The stream of server-sent events, whole and cut."""

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.auth0_server import Answer, FakeTime, Request, Server, client_of, running
from tests.support.wait import WAIT_SECONDS
from worker.auth0 import RetryPolicy, StreamedEvent, Timeouts
from worker.auth0.errors import Auth0EventsGone, Auth0RateLimited, Auth0Refused, MalformedAnswer, MissingScope

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def data(user_id: object = "auth0|1", **more: object) -> str:
    event = {"id": "evt_1", "type": "user.updated", "time": "2026-03-15T12:00:00Z"}
    return json.dumps({"offset": "o", "event": event | {"data": {"object": {"user_id": user_id}}} | more})


def message(event_id: str, kind: str = "user.updated", text: str | None = None) -> str:
    return f"event: {kind}\nid: {event_id}\ndata: {data() if text is None else text}\n\n"


def stream(text: str | bytes, kind: str = "text/event-stream; charset=utf-8", **more: Any) -> Answer:
    body = text if isinstance(text, bytes) else text.encode()
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\n\r\n"
    return Answer(raw=head.encode() + body, **more)


def event(event_id: str, kind: str = "user.updated") -> StreamedEvent:
    return StreamedEvent(event_id, kind, "auth0|1", NOON)


async def heard(server: Server, after: str | None = None, **more: Any) -> list[StreamedEvent | None]:
    async with client_of(server, FakeTime(), **more) as client, asyncio.timeout(WAIT_SECONDS):
        return [seen async for seen in client.events(after=after)]


async def test_a_documented_stream() -> None:
    """Events come with their offsets, offset-only ones too, and a keep-alive is None."""
    text = ":connected\n\nretry: 2000\n\n" + message("a", "user.created")
    text += message("b", "offset-only", '{"offset":"b"}') + ": heartbeat\n\n" + message("c")
    async with running() as server:
        server.script = [stream(text)]
        assert await heard(server) == [
            None,
            event("a", "user.created"),
            StreamedEvent("b", "offset-only", None, None),
            None,
            event("c"),
        ]
        [call] = server.calls
        assert call.target == (
            "/api/v2/events?event_type=user.created&event_type=user.updated&event_type=user.deleted"
        )
        assert call.headers["accept"] == "text/event-stream"
        assert "last-event-id" not in call.headers


async def test_a_stream_is_resumed() -> None:
    """The last id goes back to Auth0; an event without an id has the one before."""
    async with running() as server:
        server.script = [stream(f"event: user.updated\ndata: {data()}\n\nid: b\n\nid\ndata: {data()}\n\n")]
        assert await heard(server, "a==") == [event("a=="), event("b")]
        assert server.calls[0].headers["last-event-id"] == "a=="


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_line_ends_a_mark_and_many_lines(end: str) -> None:
    """All three line ends, a byte order mark and data over several lines read as the standard says."""
    lines = ["event:user.updated", "id:a", *(f"data: {line}" for line in data().split(" ")), "x: y", "z", ""]
    async with running() as server:
        server.script = [stream("\ufeff" + "".join(line + end for line in lines))]
        assert await heard(server) == [event("a")]


@given(st.lists(st.integers(1, 30), max_size=12), st.sampled_from(["\n", "\r\n", "\r"]))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_the_bytes_reads_the_same(cuts: list[int], end: str) -> None:
    """Wherever the bytes are cut on their way, between CR and LF or inside a letter, the lines are the same."""
    from worker.auth0.event_stream import _lines
    from worker.auth0.http.responses import Endpoint

    lines = ["\u00fc: \U0001f600", "", "data: b", "", "", "c"]
    whole = "".join(line + end for line in lines).encode()

    async def read() -> list[str]:
        async def body() -> Any:
            at = 0
            for cut in cuts:
                yield whole[at : at + cut]
                at += cut
            yield whole[at:]

        return [line async for line in _lines(body(), Endpoint("x", "y"))]

    assert asyncio.run(read()) == lines


async def test_an_event_that_is_cut_is_not_yielded() -> None:
    """What the connection's end cuts in two is not an event, also where its data stands whole."""
    for cut in (1, 2, 20):
        async with running() as server:
            server.script = [stream((message("a") + message("b"))[:-cut])]
            assert await heard(server) == [event("a")]


async def test_a_broken_connection_ends_the_stream() -> None:
    """Where the connection breaks, what came whole was yielded, and the caller connects again."""
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    body = message("a")
    async with running() as server:
        server.script = [Answer(raw=f"{head}{len(body):x}\r\n{body}\r\nff\r\ndata".encode())]
        assert await heard(server) == [event("a")]


@pytest.mark.parametrize("dripped", ["", "data: no end"])
async def test_a_silent_stream_ends(dripped: str) -> None:
    """A stream without a line for longer than allowed ends, and the connection with it."""
    async with running() as server:
        server.script = [stream(message("a") + dripped, until=asyncio.Event())]
        assert await heard(server, timeouts=Timeouts(silence=0.2)) == [event("a")]


async def test_an_endless_drip_is_silence() -> None:
    """Bytes that never end a line count as silence."""
    from worker.auth0.event_stream import _lines, _next_line
    from worker.auth0.http.responses import Endpoint

    async def drip() -> Any:
        while True:
            await asyncio.sleep(0.001)
            yield b"x"

    endpoint = Endpoint("x", "y")
    assert await _next_line(_lines(drip(), endpoint), 0.1, endpoint) is None


@pytest.mark.parametrize(
    "text", ["[", "7", "null", "{}", '{"event":7}', '{"event":{"data":[]}}', "[" * 100_000, data(7)]
)
async def test_an_unreadable_event_costs_only_itself(text: str) -> None:
    """An event that cannot be read names nobody, its offset counts, and the stream goes on."""
    async with running() as server:
        server.script = [stream(message("a", text=text) + message("b"))]
        odd, good = await heard(server)
        assert odd
        assert (odd.id, odd.type, odd.user_id) == ("a", "user.updated", None)
        assert good == event("b")


@pytest.mark.parametrize("code", ["cursor_expired", "invalid_cursor"])
async def test_an_offset_that_is_gone_while_listening(code: str) -> None:
    """A terminal error over the offset is the same as a 410."""
    async with running() as server:
        server.script = [stream(message("a", "error", json.dumps({"error": {"code": code}})))]
        with pytest.raises(Auth0EventsGone):
            await heard(server, "x")


async def test_any_other_terminal_error_ends_the_stream() -> None:
    """Another error ends the stream with the offset that passes it by."""
    error = json.dumps({"error": {"code": "payload_too_large", "message": "m", "offset": "past"}})
    async with running() as server:
        server.script = [stream(message("a") + f"event: error\ndata: {error}\n\n" + message("b"))]
        assert await heard(server) == [event("a"), StreamedEvent("past", "error", None, None)]


@pytest.mark.parametrize(("status", "after"), [(410, "x"), (410, None), (400, "x")])
async def test_an_offset_that_is_gone(status: int, after: str | None) -> None:
    """An offset that Auth0 refuses is an error of its own."""
    async with running() as server:
        server.script = [Answer(status, {"statusCode": status, "errorCode": "cursor_expired"})]
        with pytest.raises(Auth0EventsGone, match="GET /api/v2/events") as gone:
            await heard(server, after)
        assert (gone.value.status, gone.value.code) == (status, "cursor_expired")


async def test_a_refused_token_is_replaced_once() -> None:
    """A 401 brings one new token; a second 401 is the operator's."""
    refused = Answer(401, {"statusCode": 401})
    async with running() as server:
        server.script = [refused, stream(message("a"))]
        assert await heard(server) == [event("a")]
        assert len(server.mints) == 2
        server.script = [refused, refused]
        with pytest.raises(Auth0Refused):
            await heard(server)


async def test_other_answers() -> None:
    """A 429 is waited for, a missing scope named, and what is no event stream is no event stream."""
    async with running() as server:
        limited = Answer(429, {"statusCode": 429}, {"Retry-After": "3"})
        server.script = [limited, Answer(503, b""), stream(message("a"))]
        assert await heard(server) == [event("a")]
        server.script = [limited]
        with pytest.raises(Auth0RateLimited):
            await heard(server, retries=RetryPolicy(max_wait_seconds=0))
        server.script = [Answer(403, {"statusCode": 403, "errorCode": "insufficient_scope"})]
        with pytest.raises(MissingScope) as missing:
            await heard(server)
        assert missing.value.scopes == ("read:events",)
        for answer in (stream("<html>", "text/html"), Answer(200, {"events": []})):
            server.script = [answer]
            with pytest.raises(MalformedAnswer, match="no event stream"):
                await heard(server)


async def test_a_listener_may_leave() -> None:
    """Closing the generator ends the connection, though nothing more comes over it."""
    async with running() as server, client_of(server, FakeTime()) as client, asyncio.timeout(WAIT_SECONDS):
        server.script = [stream(message("a"), until=asyncio.Event())]
        async with aclosing(client.events(after=None)) as events:
            assert await anext(events) == event("a")
        server.api = lambda _: Answer(200, {"user_id": "auth0|1"})
        assert (await client.user("auth0|1")).user_id == "auth0|1"


async def test_nothing_is_asked_before_the_first_event_is_wanted() -> None:
    """The call is made when somebody listens."""

    def unasked(_: Request) -> Answer:
        raise AssertionError

    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = unasked
        await client.events(after=None).aclose()
        assert not server.requests
