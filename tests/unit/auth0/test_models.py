"""Users and connections, read from whatever Auth0 shows."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault.secret import Secret
from worker.auth0 import Auth0Connection, Auth0Identity, Auth0User, Options
from worker.auth0.field_types import parse_seconds
from worker.auth0.models import UnreadableEntry, read_connection, read_page, read_user

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "a\0b", 10**400, -1, "", "NaN", "9999-12-31T23:59:59-14:00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

IDENTITY = {
    "provider": "google-oauth2",
    "user_id": "1111",
    "connection": "google-oauth2",
    "isSocial": True,
    "access_token": "ya29.x",
    "refresh_token": "1//0g",
    "expires_in": 3599,
    "profileData": {"unknown": ["field"]},
}
USER = {
    "user_id": "google-oauth2|1111",
    "updated_at": "2026-03-15T07:14:32.451Z",
    "last_login": "2026-03-15T08:14:32.451+01:00",
    "logins_count": 99,
    "identities": [IDENTITY],
}


def test_a_documented_user() -> None:
    """The documented user reads as documented, and its tokens do not show."""
    moment = datetime(2026, 3, 15, 7, 14, 32, 451_000, tzinfo=UTC)
    user = read_user(USER)
    assert user == Auth0User(
        user_id="google-oauth2|1111",
        updated_at=moment,
        last_login=moment,
        identities=(
            Auth0Identity(
                provider="google-oauth2",
                user_id="1111",
                connection="google-oauth2",
                access_token=Secret("ya29.x"),
                refresh_token=Secret("1//0g"),
                expires_in=3599.0,
            ),
        ),
    )
    assert "ya29" not in repr(user)
    assert "1//0g" not in repr(user)


def one(**changed: object) -> Auth0Identity:
    [identity] = read_user(USER | {"identities": [IDENTITY | changed]}).identities
    return identity


def test_odd_but_documented_identities() -> None:
    """Numbers become ids, empty tokens none, and a token secret gives OAuth 1 away."""
    assert one(user_id=1111).user_id == "1111"
    for nothing in (None, ""):
        identity = one(access_token=nothing, refresh_token=nothing)
        assert identity.access_token is None
        assert identity.refresh_token is None
    assert one(access_token_secret="s").is_oauth1
    assert not one(access_token_secret="").is_oauth1
    assert not one().is_oauth1


NO_LENGTHS: list[object] = [-1, "-1", True, False, None, "", "1e3", "1_000", "٣", "9" * 500, [], {}, "3599s"]
NO_LENGTHS += [float("nan"), float("inf"), 10**400, 1e300]


@pytest.mark.parametrize(
    ("value", "read"), [(3599, 3599.0), ("3599", 3599.0), (" 3599.5 ", 3599.5), (0, 0.0), (1.5, 1.5)]
)
def test_lengths_of_time(value: object, read: float) -> None:
    """A length of time is a number or digits."""
    assert parse_seconds(value) == read


@pytest.mark.parametrize("value", NO_LENGTHS)
def test_unreadable_lengths_of_time(value: object) -> None:
    """What is no length of time, or longer than a century, is unknown."""
    assert parse_seconds(value) is None


@pytest.mark.parametrize(
    "date", [None, {}, 0, "", "yesterday", "0001-01-01T00:00:00+14:00", "2026-13-01T00:00:00Z"]
)
def test_unreadable_dates_are_unknown(date: object) -> None:
    """A date that is none is unknown and costs nothing else."""
    assert read_user(USER | {"last_login": date}).last_login is None


@given(st.sampled_from([*sorted(USER), "x"]), ANYTHING, st.sampled_from(sorted(IDENTITY)), ANYTHING)
def test_any_value_anywhere_is_read_or_named(field: str, value: Any, inner: str, inner_value: Any) -> None:
    """Whatever stands in any field, the page is read, the others are kept, and what is lost is named."""
    odd_identity = USER | {"identities": [IDENTITY, IDENTITY | {inner: inner_value}]}
    raws = [USER, odd_identity, USER | {field: value}, value]
    page = read_page(raws, value)
    assert page.users[0] == read_user(USER)
    assert page.users[1].identities[0] == page.users[0].identities[0]
    assert len(page.users[1].identities) + len(page.users[1].malformed) == 2
    named_identities = sum(len(user.malformed) for user in page.users)
    assert len(page.users) + len(page.malformed) - named_identities == len(raws)
    for user in page.users:
        user.user_id.encode()
        for identity in user.identities:
            for token in (identity.access_token, identity.refresh_token):
                assert token is None or token.reveal().encode()


@given(
    ANYTHING,
    st.sampled_from(["id", "name", "strategy", "options", "authentication", "connected_accounts"]),
    ANYTHING,
)
def test_any_connection_is_read_or_named(raw: Any, field: str, value: Any) -> None:
    """Whatever stands in a connection, it is read or is called unreadable, by its place."""
    whole = {"id": "con_1", "name": "corp", "strategy": "waad", "options": {}}
    for entry in (raw, whole | {field: value}):
        named = ""
        try:
            read_connection(entry, 1)
        except UnreadableEntry as unreadable:
            named = str(unreadable)
        assert named == "" or named.startswith("connection 1: ")


@pytest.mark.parametrize(
    ("shown", "read"),
    [
        ({"active": True}, True),
        ({"active": False}, False),
        ({}, None),
        ({"active": "yes"}, None),
        (True, None),
    ],
)
def test_switches_are_read_at_the_top(shown: Any, read: bool | None) -> None:
    """Authentication and Connected Accounts stand beside the options, and may be missing or odd."""
    whole = {"id": "con_1", "name": "corp", "strategy": "waad"}
    connection = read_connection(whole | {"authentication": shown, "connected_accounts": shown}, 1)
    assert (connection.authentication, connection.connected_accounts) == (read, read)
    assert read_connection(whole, 1).authentication is None


@pytest.mark.parametrize("text", ["a\ud800", "a\0"])
def test_what_no_database_stores_is_named(text: str) -> None:
    """Text that cannot be encoded or stored is unreadable here, not an error somewhere later."""
    assert read_page([USER | {"user_id": text}], 1).users == ()
    for field in ("access_token", "refresh_token", "user_id", "connection"):
        user = read_user(USER | {"identities": [IDENTITY | {field: text}]})
        assert user.identities == ()
        assert f"{field} holds NUL or half" in user.malformed[0]


def test_a_connection_never_shows_its_options() -> None:
    """Also options that were set by hand stay out of the repr."""
    assert "hunter2" not in repr(Auth0Connection("con_1", "corp", "waad", Options(client_secret="hunter2")))
    assert "hunter2" not in repr(Auth0Connection("con_1", "corp", "waad", {"client_secret": "hunter2"}))


def test_one_bad_identity_costs_only_itself() -> None:
    """An unreadable identity is named by user and place; its neighbours and its user stay."""
    bad = IDENTITY | {"connection": None, "access_token": {"hunter2": "hunter2"}}
    page = read_page([USER | {"identities": [IDENTITY, bad, IDENTITY]}], 1)
    assert len(page.users[0].identities) == 2
    assert page.malformed == page.users[0].malformed
    [named] = page.malformed
    assert "google-oauth2|1111" in named
    assert "identity 1" in named
    assert "connection is not a string" in named
    assert "access_token is not a string" in named
    assert "hunter2" not in named


def test_unreadable_entries_show_no_value() -> None:
    """The error of an unreadable entry names the fields, and holds nothing of their values anywhere."""
    with pytest.raises(UnreadableEntry) as unreadable:
        read_user({"identities": "ya29.hunter2"}, 7)
    assert "position 7" in str(unreadable.value)
    assert "identities is not a list" in str(unreadable.value)
    assert "hunter2" not in str(unreadable.value)
    assert unreadable.value.__context__ is None


def test_a_page_reads_in_a_few_milliseconds() -> None:
    """A hundred users with two hundred identities cost little beside the call that brought them."""
    wide = IDENTITY | {"access_token": "x" * 2000, "profileData": {str(i): "y" * 20 for i in range(20)}}
    body = json.dumps([USER | {"identities": [wide, wide]}] * 100)
    raws = json.loads(body)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        page = read_page(raws, 100)
        best = min(best, time.process_time() - start)
    assert len(page.users) == 100
    assert best < 0.01
