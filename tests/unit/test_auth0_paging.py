"""Lists put together from pages, and ids on their way through a path."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.auth0_server import Answer, FakeTime, Request, Server, client_of, running
from worker.auth0 import UserPage
from worker.errors import Auth0NotFound, Auth0Unreachable, MalformedAnswer, PagingWindowExceeded

PAST_THE_WINDOW = Answer(400, {"statusCode": 400, "error": "Bad Request", "errorCode": "invalid_paging"})


def tenant(size: int, *, window: Answer | None = PAST_THE_WINDOW, totals: bool = True) -> Server:
    """A tenant of so many users that shows 1,000 of them."""
    server = Server()

    def api(request: Request) -> Answer:
        page, take = int(request.query["page"]), int(request.query["per_page"])
        if page * take >= 1000 and window:
            return window
        users = [{"user_id": f"auth0|{i}"} for i in range(page * take, min(size, 1000, (page + 1) * take))]
        return Answer(200, {"start": page * take, "total": size, "users": users} if totals else users)

    server.api = api
    return server


async def all_of(pages: AsyncIterator[UserPage]) -> list[str]:
    return [user.user_id async for page in pages for user in page.users]


@pytest.mark.parametrize("totals", [True, False])
@pytest.mark.parametrize(("size", "calls"), [(0, 1), (1, 1), (99, 1), (101, 2), (250, 3), (999, 10)])
async def test_every_user_once(size: int, calls: int, totals: bool) -> None:
    """All users come once and in order, with no request more than needed, totals shown or not."""
    async with running(tenant(size, totals=totals)) as server, client_of(server, FakeTime()) as client:
        assert await all_of(client.users()) == [f"auth0|{i}" for i in range(size)]
        assert len(server.calls) == calls


async def test_unreadable_users_do_not_prolong_a_walk() -> None:
    """An entry that cannot be read is named, and counts as seen."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: Answer(200, {"total": 2, "users": [{"user_id": "auth0|1"}, {"user_id": 7}]})
        [page] = [page async for page in client.users()]
        assert len(page.users) == 1
        assert page.malformed == ("user at position 1: user_id is not a string",)


async def test_the_query_is_stable_and_small() -> None:
    """Pages are asked for by creation, a hundred at a time, with the needed fields only."""
    async with running(tenant(1)) as server, client_of(server, FakeTime()) as client:
        await all_of(client.users(connection='a "b" \\ c+d&e=ü'))
        assert server.calls[0].query == {
            "page": "0",
            "per_page": "100",
            "include_totals": "true",
            "sort": "created_at:1",
            "fields": "user_id,identities,last_login,updated_at,created_at",
            "include_fields": "true",
            "q": 'identities.connection:"a \\"b\\" \\\\ c+d&e=ü"',
            "search_engine": "v3",
        }


async def test_a_walk_can_be_taken_up() -> None:
    """A walk may begin at a later page, and ends where it should."""
    async with running(tenant(250)) as server, client_of(server, FakeTime()) as client:
        assert await all_of(client.users(start_page=2)) == [f"auth0|{i}" for i in range(200, 250)]
        assert len(server.calls) == 1


@pytest.mark.parametrize("window", [PAST_THE_WINDOW, None])
async def test_the_window_is_never_silent(window: Answer | None) -> None:
    """After the last page that Auth0 shows, the error says how many of how many were seen."""
    async with running(tenant(2500, window=window)) as server, client_of(server, FakeTime()) as client:
        pages = client.users()
        seen = [user.user_id for _ in range(10) for user in (await anext(pages)).users]
        assert len(set(seen)) == 1000
        with pytest.raises(PagingWindowExceeded, match="1000 users of 2500"):
            await anext(pages)


async def test_the_window_without_totals() -> None:
    """Where Auth0 shows no total, the end of the window is an error all the same."""
    async with running(tenant(2500, totals=False)) as server, client_of(server, FakeTime()) as client:
        with pytest.raises(PagingWindowExceeded, match="1000 users of an unknown number"):
            await all_of(client.users())


async def test_the_next_page_is_on_its_way() -> None:
    """While the caller works on a page, the next one is fetched, and no more than that."""
    async with running(tenant(500)) as server, client_of(server, FakeTime()) as client, asyncio.timeout(10):
        pages = client.users()
        await anext(pages)
        asked = [await server.arrived.get() for _ in range(3)]
        assert [request.query.get("page") for request in asked] == [None, "0", "1"]
        server.api = lambda _: Answer(200, {"user_id": "auth0|1"})
        await client.user("auth0|1")  # time enough for another page, were one asked for
        assert [call.query.get("page") for call in server.calls] == ["0", "1", None]
        await pages.aclose()


async def test_a_failure_ahead_comes_after_the_page_at_hand() -> None:
    """A page that came is handed over before the failure of the next is raised."""
    async with running(tenant(500)) as server, client_of(server, FakeTime()) as client:
        pages = client.users()
        first_page = server.api(Request("GET", "/?page=0&per_page=100", {}, b""))
        assert isinstance(first_page, Answer)
        server.script = [first_page]
        server.api = lambda _: Answer(501, b"")
        assert len((await anext(pages)).users) == 100
        with pytest.raises(Auth0Unreachable):
            await anext(pages)


async def test_leaving_a_walk_leaves_nothing_behind() -> None:
    """A walk that is given up takes its look ahead with it."""
    async with running(tenant(500)) as server, client_of(server, FakeTime()) as client, asyncio.timeout(10):
        pages = client.users()
        first_page = server.api(Request("GET", "/?page=0&per_page=100", {}, b""))
        assert isinstance(first_page, Answer)
        server.script = [first_page]

        async def hang(_: Request) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

        server.api = hang
        await anext(pages)
        for _ in range(3):
            await server.arrived.get()
        await pages.aclose()
        assert not [task for task in asyncio.all_tasks() if "page" in repr(task.get_coro())]


@pytest.mark.parametrize("body", [{}, {"users": None}, {"users": {}}, "users", None, 1])
async def test_a_page_without_users_is_malformed(body: object) -> None:
    """An answer that holds no list is an error, not an empty tenant."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: Answer(200, body)
        with pytest.raises(MalformedAnswer, match="no list of users"):
            await all_of(client.users())


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
        assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
            "auth0.connection_malformed"
        ]


async def test_options_are_kept_and_not_shown() -> None:
    """Options come whole; absent ones are None, empty ones are not; no repr shows them."""
    shown = con("a", options={"client_secret": "hunter2", "deep": [1]}, enabled_clients=["c1", 7])
    tenant = connections([[shown, con("b", options={}), con("c")]])
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        a, b, c = [c async for c in client.connections()]
    assert a.options == {"client_secret": "hunter2", "deep": [1]}
    assert a.enabled_clients == ("c1",)
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
