"""What log streams and event streams post: users are found in it, and nothing in it can do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.auth0 import pushed_events
from worker.auth0.pushed_events import MAX_USER_ID_CHARACTERS, PushedEvents, read_pushed_events
from worker.sync.change_feeds import may_change_tokens


def read(body: bytes | str) -> PushedEvents:
    return read_pushed_events(body.encode() if isinstance(body, str) else body, may_change_tokens)


def logged(kind: str, user_id: str = "a|1", **fields: Any) -> dict[str, Any]:
    """An entry of the log, as a log stream posts it."""
    return {"log_id": "900", "data": {"type": kind, "user_id": user_id, "log_id": "900", **fields}}


def cloud_event(kind: str, user: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "type": kind, "id": "evt_1", "data": {"object": user}}


LOGINS = [logged("s", f"a|{number}") for number in range(3)]
NAMED = ("a|0", "a|1", "a|2")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(LOGINS),
        json.dumps({"logs": LOGINS}),
        "\n".join(map(json.dumps, LOGINS)),
        "\r\n".join(map(json.dumps, LOGINS)) + "\r\n\r\n",
        json.dumps([each["data"] for each in LOGINS]),
        json.dumps(LOGINS + LOGINS),
    ],
    ids=["array", "object", "lines", "lines with CRLF", "bare entries", "twice"],
)
def test_each_format_names_its_users_once(body: str) -> None:
    """Arrays, objects and lines are told apart by themselves, whatever their media type says."""
    assert read(body).user_ids == NAMED
    assert read(body).malformed == ()


def test_a_single_event_names_its_user() -> None:
    """One object is one event."""
    assert read(json.dumps(LOGINS[0])).user_ids == ("a|0",)


@pytest.mark.parametrize("kind", ["user.created", "user.updated", "user.deleted"])
def test_a_cloud_event_names_its_user(kind: str) -> None:
    """By itself and in the envelope of the event stream."""
    event = cloud_event(kind, {"user_id": "a|1", "email": "ann@example.com"})
    assert read(json.dumps(event)).user_ids == ("a|1",)
    assert read(json.dumps({"type": kind, "offset": "x", "event": event})).user_ids == ("a|1",)


@pytest.mark.parametrize(
    "event",
    [
        logged("f"),
        logged("fapi"),
        logged("seacft"),
        logged("ssa"),
        logged("never_heard_of"),
        logged("s", strategy="auth0"),
        cloud_event("organization.created", {}),
        {"log_id": "900", "data": {"type": "s"}},
    ],
)
def test_what_changes_no_token_is_passed_over(event: dict[str, Any]) -> None:
    """Failures, silent logins and unknown kinds cost no call to Auth0."""
    assert read(json.dumps([event])) == PushedEvents((), False, 1, (), 1)


@pytest.mark.parametrize("kind", ["connection.created", "connection.updated", "connection.deleted"])
def test_a_changed_connection_is_told(kind: str) -> None:
    """Its name does not matter: all connections are listed in one call."""
    assert read(json.dumps([cloud_event(kind, {"id": "con_1"})])) == PushedEvents((), True, 0, (), 1)


def test_deletions_and_links_name_all_users() -> None:
    """A management write names the users of its path and body."""
    request = {
        "method": "post",
        "path": "/api/v2/users/a%7C1/identities",
        "body": {"provider": "b", "user_id": "2"},
    }
    events = [
        logged("sdu", "a|9"),
        {"log_id": "1", "data": {"type": "sapi", "details": {"request": request}}},
    ]
    assert read(json.dumps(events)).user_ids == ("a|9", "a|1", "b|2")


def test_a_malformed_line_is_named_by_its_number() -> None:
    """The lines around it count."""
    lines = [
        json.dumps(LOGINS[0]).encode(),
        b'{"log_id": ',
        b"\xff\xfe",
        b"7",
        json.dumps(LOGINS[1]).encode(),
    ]
    assert read(b"\n".join(lines)) == PushedEvents(("a|0", "a|1"), False, 0, (2, 3, 4), 5)


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "7",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        json.dumps(cloud_event("user.updated", {"user_id": ["a"]})),
        json.dumps(cloud_event("user.updated", {"user_id": "a\0b"})),
        json.dumps(cloud_event("user.updated", {"user_id": "a\ud800"})),
        json.dumps(cloud_event("user.updated", {"user_id": "a" * (MAX_USER_ID_CHARACTERS + 1)})),
        json.dumps(logged("s", "a" * (MAX_USER_ID_CHARACTERS + 1))),
        "{}",
    ],
    ids=lambda body: body[:20],
)
def test_what_is_no_event_is_malformed(body: str) -> None:
    """An id that cannot be stored is none."""
    assert read(body) == PushedEvents((), False, 0, (1,), 1)


@pytest.mark.parametrize("join", [json.dumps, lambda events: "\n".join(map(json.dumps, events))])
def test_too_many_events_are_refused(join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A post is bounded in events as well as in bytes."""
    monkeypatch.setattr(pushed_events, "MAX_EVENTS", 3)
    assert read(join(LOGINS)).user_ids == NAMED
    with pytest.raises(ValueError, match="more than 3 events"):
        read(join([*LOGINS, LOGINS[0]]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["s", "sapi", "user.updated", "1.0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "event", "object", "type", "user_id", "log_id", "specversion", "details",
                             "request", "path", "method", "body", "provider", "logs"]) | st.text(max_size=3),
            inner, max_size=6,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON.map(json.dumps).map(str.encode) | st.binary(max_size=200))
def test_no_body_does_harm(body: bytes) -> None:
    """Whatever is posted, ids are texts that can be stored, and each event counts once at the most."""
    events = read(body)
    assert all(0 < len(each) <= MAX_USER_ID_CHARACTERS and "\0" not in each for each in events.user_ids)
    for each in events.user_ids:
        each.encode()
    assert len(set(events.malformed)) == len(events.malformed)
