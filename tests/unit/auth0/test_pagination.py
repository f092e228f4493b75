"""Lists put together from pages, and ids on their way through a path."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.auth0_server import Answer, FakeTime, Request, Server, client_of, running
from worker.auth0.errors import Auth0Error, Auth0NotFound, MalformedAnswer, MissingScope


async def test_unreadable_users_are_named() -> None:
    """An entry that cannot be read is named, and is part of the page's size."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: Answer(200, {"total": 2, "users": [{"user_id": "auth0|1"}, {"user_id": 7}]})
        page = await client.users_by("created_at")
        assert (len(page.users), page.size, page.total) == (1, 2, 2)
        assert page.malformed == ("user at position 1: user_id is not a string",)


@pytest.mark.parametrize("body", [{}, {"users": None}, {"users": {}}, "users", None, 1])
async def test_a_page_without_users_is_malformed(body: object) -> None:
    """An answer that holds no list is an error, not an empty tenant."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: Answer(200, body)
        with pytest.raises(MalformedAnswer, match="no list of users"):
            await client.users_by("created_at")


def connections(pages: list[Any], next_of: dict[int, object] | None = None) -> Server:
    server = Server()

    def api(request: Request) -> Answer:
        number = int(request.query.get("from", "0"))
        following = next_of or {i: str(i + 1) for i in range(len(pages) - 1)}
        return Answer(200, {"connections": pages[number], "next": following.get(number)})

    server.api = api
    return server


def con(name: str, **more: object) -> dict[str, object]:
    return {"id": f"con_{name}", "name": name, "strategy": "oauth2", **more}


async def test_only_auth0s_own_404_says_that_a_connection_is_gone() -> None:
    """On any other failure nothing is concluded: its admin tokens would be erased."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: Answer(200, {"name": "a"})
        assert await client.has_connection("con_a")
        server.api = lambda _: Answer(404, {"statusCode": 404, "error": "Not Found"})
        assert not await client.has_connection("con_a")
        for failure in (Answer(404, b"no such page"), Answer(400, {"statusCode": 400}), Answer(403, {})):
            server.script = [failure]
            with pytest.raises((Auth0Error, MissingScope)) as refused:
                await client.has_connection("con_a")
            assert not isinstance(refused.value, Auth0NotFound)


async def test_connections_follow_the_checkpoint() -> None:
    """Connections come page by page from checkpoint to checkpoint, bad ones named in the log and left out."""
    async with running(connections([[con("a"), {"id": "x"}], [], [con("b")]])) as server:
        async with client_of(server, FakeTime()) as client:
            with capture_logs() as logs:
                names = [c.name async for c in client.connections(strategy="oauth2")]
        assert names == ["a", "b"]
        assert [call.query for call in server.calls] == [
            {"strategy": "oauth2", "take": "100"},
            {"strategy": "oauth2", "take": "100", "from": "1"},
            {"strategy": "oauth2", "take": "100", "from": "2"},
        ]
        assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["connection.skipped"]


async def test_options_are_kept_and_not_shown() -> None:
    """Options come whole; absent ones are None, empty ones are not; no repr shows them."""
    shown = con("a", options={"client_secret": "hunter2", "deep": [1]})
    tenant = connections([[shown, con("b", options={}), con("c")]])
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        a, b, c = [c async for c in client.connections()]
    assert a.options == {"client_secret": "hunter2", "deep": [1]}
    assert b.options == {}
    assert c.options is None
    assert "hunter2" not in f"{a!r} {a} {a.options!r} {a.options}"


@pytest.mark.parametrize("checkpoint", [{0: "1", 1: "1"}, {0: 7}])
async def test_a_checkpoint_that_leads_nowhere(checkpoint: dict[int, object]) -> None:
    """A checkpoint that repeats or is no string ends in an error, not in a loop."""
    tenant = connections([[con("a")], []], checkpoint)
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        with pytest.raises(MalformedAnswer, match="checkpoint"):
            [c async for c in client.connections()]


async def test_a_connection_by_name() -> None:
    """One connection is found by its exact name, or is not found."""
    async with (
        running(connections([[con("ab"), con("a")]])) as server,
        client_of(server, FakeTime()) as client,
    ):
        assert (await client.connection("a")).id == "con_a"
        assert server.calls[0].query == {"name": "a", "take": "100"}
        with pytest.raises(Auth0NotFound, match="no connection 'b'"):
            await client.connection("b")


@given(st.lists(st.text(min_size=1), max_size=20))
@settings(max_examples=40, deadline=None)
def test_ids_round_trip_through_the_path(ids: list[str]) -> None:
    """Whatever an id holds, Auth0 sees that id in one segment of the path, or the call is not made."""

    async def ask() -> None:
        async with running() as server, client_of(server, FakeTime()) as client:
            server.api = lambda request: Answer(200, {"user_id": request.last_segment})
            for user_id in ids:
                if user_id in (".", "..") or "\0" in user_id:
                    continue  # never sent, or never a readable answer
                assert (await client.user(user_id)).user_id == user_id
                assert server.calls[-1].path.count("/") == 4

    asyncio.run(ask())


@pytest.mark.parametrize("user_id", ["", ".", "..", "\ud800"])
async def test_ids_that_would_leave_the_path(user_id: str) -> None:
    """An id that would name another resource, or cannot be sent, is not found without asking."""
    async with running() as server, client_of(server, FakeTime()) as client:
        with pytest.raises(Auth0NotFound):
            await client.user(user_id)
        assert not server.calls


@pytest.mark.parametrize("user_id", ["a/../b", "../x", "auth0|%2e%2e", "a?b#c", "ad|corp\\me", "+ ü😀", "%"])
async def test_odd_ids_round_trip(user_id: str) -> None:
    """Slashes, dots, percent signs and signs of other scripts arrive as they are."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda request: Answer(200, {"user_id": request.last_segment})
        assert (await client.user(user_id)).user_id == user_id
