"""The tenant log from checkpoint to checkpoint, and users searched for by time and by identity."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.support.auth0_server import Answer, FakeTime, Server, client_of, running
from tests.unit.auth0.test_models import IDENTITY, USER
from worker.auth0 import OPTIONAL_SCOPES, SCOPES, LogEntry
from worker.auth0.errors import (
    Auth0Error,
    Auth0LogGone,
    Auth0Unreachable,
    MalformedAnswer,
    MissingScope,
    PagingWindowExceeded,
)

MOMENT = datetime(2026, 3, 15, 7, 14, 32, 451_999, tzinfo=UTC)
FIRST = "90020260315071432451000000000000001223372036854775807"


def entry(log_id: object, **more: object) -> dict[str, object]:
    return {"log_id": log_id, "date": "2026-03-15T07:14:32.451Z", "type": "s", "user_id": "auth0|1"} | more


def page(entries: object, link: str | None = None) -> Answer:
    return Answer(200, entries, {} if link is None else {"Link": link})


async def test_a_page_of_the_log() -> None:
    """Entries come in the log's own order, and the checkpoint is the link's, whatever its host."""
    async with running() as server, client_of(server, FakeTime()) as client:
        link = '<https://elsewhere.example/api/v2/logs?from=opaque%2B1&take=100>; rel="next"'
        server.script = [page([entry("9"), entry("10", user_id=None, date="2026-03-15T07:14:32Z")], link)]
        shown = await client.logs(FIRST)
        assert shown.entries == (
            LogEntry(
                "9", MOMENT.replace(microsecond=451_000), "s", ("auth0|1",), None, may_change_identities=True
            ),
            LogEntry("10", MOMENT.replace(microsecond=0), "s", (), None, may_change_identities=True),
        )
        assert shown.after == "opaque+1"
        server.script = [page([])]
        await client.logs(shown.after, take=7)
        assert [call.query for call in server.calls] == [
            {"from": FIRST, "take": "100"},
            {"from": "opaque+1", "take": "7"},
        ]


@pytest.mark.parametrize(
    "link",
    [
        None,
        "",
        "nonsense",
        "<>; rel=next",
        '<https://t/api/v2/logs?take=1>; rel="next"',
        '<https://t/api/v2/logs?from=a&from=b>; rel="next"',
        '<https://t/api/v2/logs?from=x>; rel="prev"',
        '<https://t/api/v2/logs?from=start>; rel="next"',
        '<https://[t/api/v2/logs?from=x>; rel="next"',
        '<https://t/api/v2/logs?from=%00>; rel="next"',
    ],
)
async def test_without_a_sound_link_the_last_entry_is_the_checkpoint(link: str | None) -> None:
    """A link that is absent, odd, or leads back where we came from is left aside for the last id."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [page([entry("9"), entry("10"), {"type": "s"}], link)]
        shown = await client.logs("start")
        assert shown.after == "10"
        assert shown.malformed == ("log entry at position 2: has no log_id",)


async def test_one_link_among_several() -> None:
    """The link to the next page is found beside others, also where it has two relations."""
    async with running() as server, client_of(server, FakeTime()) as client:
        link = '<https://t/a>; rel="first", </api/v2/logs?from=x>; rel="last next"'
        server.script = [page([entry("9")], link)]
        assert (await client.logs("start")).after == "x"


async def test_an_empty_page_keeps_its_checkpoint() -> None:
    """Where there is nothing new, the same is asked again, whatever is linked."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [page([], '<https://t/api/v2/logs?from=x>; rel="next"')]
        assert (await client.logs("start")).after == "start"


@pytest.mark.parametrize("odd", [None, 7, [], {}, {"log_id": 7}, {"log_id": ""}, {"log_id": "a\0"}])
async def test_an_unreadable_entry_costs_only_itself(odd: Any) -> None:
    """What cannot be read is named, its neighbours stay, and the log goes on behind it."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [page([entry("1"), odd, entry("2", type=None, user_id=7, connection=[], date="x")])]
        shown = await client.logs("start")
        assert [e.log_id for e in shown.entries] == ["1", "2"]
        assert shown.entries[1] == LogEntry("2", None, "", (), None)
        assert shown.malformed == ("log entry at position 1: has no log_id",)
        assert shown.after == "2"


async def test_a_full_page_that_leads_nowhere() -> None:
    """A full page without any checkpoint is an error, not a loop; another is asked for again."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [page([{}] * 2), page([{}] * 2)]
        assert (await client.logs("start", take=3)).after == "start"
        with pytest.raises(MalformedAnswer, match="nothing to go on from"):
            await client.logs("start", take=2)


def written(path: object, body: object = None) -> tuple[str, ...]:
    from worker.auth0.tenant_log import read_log_entry

    request = {"path": path, "method": "post", "body": body}
    return read_log_entry(entry("1", type="sapi", user_id=None, details={"request": request}), 0).users


@pytest.mark.parametrize(
    ("path", "body", "users"),
    [
        ("/api/v2/users/auth0%7C1", None, ("auth0|1",)),
        ("/api/v2/users/auth0|1?x=1", None, ("auth0|1",)),
        ("/api/v2/users/auth0%7C1/identities/github/7", None, ("auth0|1", "github|7")),
        ("/api/v2/users/a%2Fb/identities", {"provider": "github", "user_id": "7"}, ("a/b", "github|7")),
        ("/api/v2/users/a/identities", {"provider": "github", "user_id": 7}, ("a", "github|7")),
        ("/api/v2/users/a/identities", {"provider": "github", "user_id": "github|7"}, ("a", "github|7")),
        ("/api/v2/users/a/identities", {"link_with": "eyJ.secret.x"}, ("a",)),
        ("/api/v2/users/a", {"provider": "github", "user_id": "7"}, ("a",)),
        ("/api/v2/users/a/identities", [], ("a",)),
        ("/api/v2/users/a/roles", None, ()),
        ("/api/v2/users", None, ()),
        ("/api/v2/clients/auth0%7C1", None, ()),
        (7, None, ()),
        (None, {"user_id": []}, ()),
    ],
)
def test_whom_a_management_write_names(path: object, body: object, users: tuple[str, ...]) -> None:
    """The request's path names users, and a link's body its second one."""
    assert written(path, body) == users


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("delete", "/api/v2/users/auth0%7C1", True),
        ("DELETE", "/api/v2/users/auth0%7C1", True),
        ("patch", "/api/v2/users/auth0%7C1", False),
        ("post", "/api/v2/users/auth0%7C1/identities", True),
        ("delete", "/api/v2/clients/1", False),
        (None, "/api/v2/users/auth0%7C1", True),
    ],
)
def test_which_management_writes_may_change_identities(method: str | None, path: str, may: bool) -> None:
    """A link and a deletion may, in whichever case the log writes the method; a profile's change does not."""
    from worker.auth0.tenant_log import read_log_entry

    request = {"path": path, "method": method}
    found = read_log_entry(entry("1", type="sapi", details={"request": request}), 0)
    assert found.may_change_identities is may


@pytest.mark.parametrize(
    ("kind", "may"),
    [("s", True), ("ss", True), ("sens", True), ("sdu", True), ("slo", False), ("f", False), ("fapi", False)],
)
def test_which_entries_may_change_identities(kind: str, may: bool) -> None:
    """Each kind of login and sign-up brings tokens, and a deletion takes them."""
    from worker.auth0.tenant_log import read_log_entry

    assert read_log_entry(entry("1", type=kind), 0).may_change_identities is may


def test_users_are_named_once() -> None:
    """An entry names each user once; the path of anything but a write says nothing."""
    from worker.auth0.tenant_log import read_log_entry

    details = {"request": {"path": "/api/v2/users/auth0%7C1"}}
    assert read_log_entry(entry("1", type="sapi", details=details), 0).users == ("auth0|1",)
    details = {"request": {"path": "/api/v2/users/auth0%7C2"}}
    assert read_log_entry(entry("1", type="fapi", details=details), 0).users == ("auth0|1",)
    odds: list[object] = [None, 7, [], {"request": []}]
    for odd in odds:
        assert read_log_entry(entry("1", type="sapi", details=odd), 0).users == ("auth0|1",)


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_checkpoint_that_is_refused(status: int) -> None:
    """A checkpoint that Auth0 refuses says that the log is no longer kept so far back."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [Answer(status, {"statusCode": status, "errorCode": "invalid_query"})]
        with pytest.raises(Auth0LogGone, match="GET /api/v2/logs") as refused:
            await client.logs("start")
        assert (refused.value.status, refused.value.code) == (status, "invalid_query")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(404, b"<html>"), MalformedAnswer),
        (Answer(501, {"statusCode": 501}), Auth0Unreachable),
        (Answer(409, {"statusCode": 409}), Auth0Error),
        (Answer(200, {"entries": []}), MalformedAnswer),
    ],
)
async def test_other_refusals_say_nothing_of_the_checkpoint(answer: Answer, kind: type[Auth0Error]) -> None:
    """What is not Auth0's word on the checkpoint does not make the cursor useless."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [answer]
        with pytest.raises(kind) as error:
            await client.logs("start")
        assert not isinstance(error.value, Auth0LogGone)


async def test_the_newest_entry() -> None:
    """The newest entry is asked for by date; an empty log has none."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [page([entry(FIRST)]), page([]), page([{}])]
        newest = await client.newest_log()
        assert newest
        assert newest.log_id == FIRST
        assert server.calls[0].query == {"sort": "date:-1", "page": "0", "per_page": "1"}
        assert await client.newest_log() is None
        with pytest.raises(MalformedAnswer, match="no log_id"):
            await client.newest_log()


async def test_a_missing_scope_says_what_it_breaks() -> None:
    """Optional scopes are asked for like the others, and are not among the needed ones."""
    assert not set(OPTIONAL_SCOPES) & set(SCOPES)
    async with running() as server, client_of(server, FakeTime()) as client:
        for scope, breaks in OPTIONAL_SCOPES.items():
            with pytest.raises(MissingScope) as missing:
                await client.require(scope)
            assert missing.value.breaks == breaks
        server.script = [Answer(403, {"statusCode": 403, "errorCode": "insufficient_scope"})]
        with pytest.raises(MissingScope) as missing:
            await client.newest_log()
        assert missing.value.scopes == ("read:logs",)


def users(*raw: object) -> Server:
    server = Server()
    server.api = lambda _: Answer(200, {"users": list(raw), "total": 5000})
    return server


async def test_a_page_of_users_by_time() -> None:
    """A page is ordered by the time asked for, with bounds in milliseconds, and tells the last of each time."""
    tenant = users(USER, USER | {"created_at": "2026-03-15T07:14:32Z"})
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        shown = await client.users_by("created_at")
        assert "q" not in server.calls[0].query
        assert server.calls[0].query["sort"] == "created_at:1"
        later = MOMENT + timedelta(hours=1)
        await client.users_by("updated_at", MOMENT, until=later, page=3, connection='a"b', totals=True)
        elsewhere = MOMENT.astimezone(timezone(timedelta(hours=-7)))
        await client.users_by("updated_at", until=elsewhere.replace(microsecond=0))
    assert shown.size == 2
    assert shown.total == 5000
    assert shown.last_created_at == shown.users[1].created_at == MOMENT.replace(microsecond=0)
    assert shown.last_updated_at == MOMENT.replace(microsecond=451_000)
    assert server.calls[1].query == {
        "page": "3",
        "per_page": "100",
        "include_totals": "true",
        "sort": "updated_at:1",
        "fields": "user_id,identities,last_login,updated_at,created_at",
        "include_fields": "true",
        "search_engine": "v3",
        "q": "updated_at:[2026-03-15T07:14:32.451Z TO 2026-03-15T08:14:32.451Z]"
        ' AND identities.connection:"a\\"b"',
    }
    assert server.calls[2].query["q"] == "updated_at:[* TO 2026-03-15T07:14:32.000Z]"
    assert server.calls[2].query["include_totals"] == "false"


async def test_unreadable_users_do_not_stop_a_keyset_walk() -> None:
    """Size and last times count entries that cannot be read, and pass by those without a time."""
    unreadable = {"user_id": 7, "created_at": "2026-03-15T07:14:32.451Z"}
    tenant = users(USER | {"created_at": "2026-01-01"}, unreadable, {"user_id": "auth0|2"}, 7)
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        shown = await client.users_by("created_at")
        assert shown.size == 4
        assert [user.user_id for user in shown.users] == ["google-oauth2|1111", "auth0|2"]
        assert shown.last_created_at == MOMENT.replace(microsecond=451_000)


async def test_the_window_of_a_query() -> None:
    """A page that Auth0 does not show is an error of its own; other errors stay what they are."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.script = [Answer(400, {"statusCode": 400, "errorCode": "invalid_paging"})]
        with pytest.raises(PagingWindowExceeded):
            await client.users_by("created_at", page=10)
        server.script = [Answer(400, {"statusCode": 400, "errorCode": "invalid_query_string"})]
        with pytest.raises(Auth0Error) as other:
            await client.users_by("created_at")
        assert not isinstance(other.value, PagingWindowExceeded)


async def test_who_holds_an_identity() -> None:
    """The search is quoted, and its matches over two identities of one user are left out."""
    held = IDENTITY | {"connection": 'a"b\\', "user_id": "x OR y"}
    crossed = [IDENTITY | {"connection": 'a"b\\'}, IDENTITY | {"user_id": "x OR y"}]
    tenant = users(
        {"user_id": "u|1", "identities": [IDENTITY, held]},
        {"user_id": "u|2", "identities": crossed},
        {"user_id": "u|3", "identities": [7]},
    )
    async with running(tenant) as server, client_of(server, FakeTime()) as client:
        found = await client.users_with_identity('a"b\\', "x OR y")
        assert [user.user_id for user in found] == ["u|1", "u|3"]
        assert server.calls[0].query["q"] == (
            'identities.connection:"a\\"b\\\\" AND identities.user_id:"x OR y"'
        )
        assert await client.users_with_identity("a", "\ud800") == ()
        assert len(server.calls) == 1


async def test_the_urgent_view() -> None:
    """The urgent client has the same token and connections."""
    async with running(users(USER)) as server, client_of(server, FakeTime()) as client:
        await client.users_by("created_at")
        await client.urgent.users_by("created_at")
        assert len(server.mints) == 1
