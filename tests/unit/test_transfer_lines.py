"""Lines of an import: what is parsed, what is refused, and that no message repeats a value."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keys import REFRESH_KEY
from token_vault.grant_key import GrantKey
from token_vault.secret import Secret
from worker.transfer import lines
from worker.transfer.lines import FIELDS, TransferLine, format_line, parse_line
from worker.vault.transfers.cipher import TransferCipher

LEAST = {"user_id": "google-oauth2|1111", "connection": "google-oauth2", "refresh_token": "r-1"}
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
TOKENS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def parsed(**fields: Any) -> TransferLine | list[str]:
    """Parse a line with these fields beside the least that it needs."""
    return parse_line(7, json.dumps({**LEAST, **fields}), tenant="default")


def test_the_least_that_a_line_needs() -> None:
    """The account is the end of the user's id, the tenant the only one."""
    line = parsed()
    assert isinstance(line, TransferLine)
    assert line.key == GrantKey("default", "google-oauth2", "google-oauth2|1111", "1111")
    assert (line.number, line.refresh, line.access, line.expires_at, line.scopes) == (
        7,
        Secret("r-1"),
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"refresh_token": None}, "refresh_token is missing"),
        ({"refresh_token": ""}, "refresh_token is missing"),
        ({"refresh_token": 5}, "refresh_token is no token"),
        ({"refresh_token": "a\nb"}, "refresh_token is no token"),
        ({"refresh_token": "ä"}, "refresh_token is no token"),
        ({"refresh_token_encrypted": "gAAAA"}, "the refresh token is there twice"),
        ({"user_id": ""}, "user_id is missing"),
        ({"user_id": "1111"}, "account is missing"),
        ({"user_id": ["u|1"]}, "user_id is no name"),
        ({"connection": "a\0b"}, "connection is no name"),
        ({"account": ""}, "account is missing"),
        ({"tenant": 3}, "tenant is no name"),
        ({"admin": True}, "an admin grant has neither"),
        ({"admin": "yes"}, "admin is true or false"),
        ({"expires_at": "2026-01-31T12:00:00"}, "expires_at is no time"),
        ({"expires_at": True}, "expires_at is no time"),
        ({"consented_at": "yesterday"}, "consented_at is no time"),
        ({"expires_at": 1_900_000_000_000}, "expires_at is no time"),
        ({"scopes": [1]}, "scopes are no list"),
        ({"refreshtoken": "r"}, "a field is unknown"),
    ],
)
def test_mistakes(fields: dict[str, Any], said: str) -> None:
    """Each mistake is named by its field."""
    found = parsed(**fields)
    assert isinstance(found, list)
    assert any(said in each for each in found), found


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '"r-1"', "[" * 100_000, "x" * 200_000])
def test_what_is_no_object(line: str) -> None:
    """What is not an object of JSON is one mistake."""
    assert isinstance(parse_line(1, line, tenant="default"), list)


def test_times_and_scopes_in_both_forms() -> None:
    """A time is ISO 8601 or Unix seconds, scopes are a list or one text."""
    for at in ("2030-01-01T01:00:00+01:00", "2030-01-01T00:00:00Z", 1893456000):
        for scopes in (["a", "b"], "a  b"):
            line = parsed(expires_at=at, consented_at=at, scopes=scopes)
            assert isinstance(line, TransferLine)
            assert (line.expires_at, line.scopes) == (datetime(2030, 1, 1, tzinfo=UTC), ("a", "b"))
            assert line.consented_at == line.expires_at


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_object_is_a_line_or_mistakes(fields: dict[str, Any]) -> None:
    """Nothing is raised, and no message has the value of a token."""
    canary = "canary-of-a-token"
    for secret in (
        {},
        {"refresh_token": canary},
        {"user_id": canary},
        {"access_token": [canary]},
        {canary: 1},
    ):
        found = parse_line(1, json.dumps(fields | secret), tenant="default")
        if isinstance(found, list):
            assert found
            assert canary not in " ".join(found)
        else:
            assert canary not in repr(found) or canary in (*vars_of(found.key), *(found.scopes or ()))


def test_a_line_s_fields_do_not_show_its_tokens() -> None:
    """A traceback that prints local variables has no token of the line in it."""
    fields = lines._load(json.dumps({**LEAST, "scopes": [{"refresh_token": "r-2"}]}))
    assert isinstance(fields, dict)
    assert fields["refresh_token"] == "r-1"
    assert "r-1" not in repr(fields)
    assert "r-2" not in repr(fields["scopes"])


def vars_of(key: GrantKey) -> tuple[str, ...]:
    """The names in a key."""
    return (key.tenant, key.connection, key.user_id, key.provider_user_id)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_line_or_mistakes(text: str) -> None:
    """A line that is anything at all raises nothing."""
    parse_line(1, text, tenant=None)


@given(
    tenant=NAMES, connection=NAMES, user=st.tuples(NAMES, NAMES) | st.none(), refresh=TOKENS,
    scopes=st.none() | st.lists(NAMES).map(tuple), consented_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip
def test_what_is_written_is_read_again(
    tenant: str,
    connection: str,
    user: tuple[str, str] | None,
    refresh: str,
    scopes: tuple[str, ...] | None,
    consented_at: datetime | None,
) -> None:
    """A written line parses to the same grant, in one line of text."""
    key = GrantKey(tenant, connection, *(user or ()))
    line = TransferLine(1, key, Secret(refresh), scopes=scopes, consented_at=consented_at)
    written = format_line(line)
    assert "\n" not in written
    assert parse_line(1, written, tenant=None) == line


def test_a_ciphertext_is_of_its_grant() -> None:
    """A line with another's ciphertext imports nothing; a tenant may have another name in the other vault."""
    key, refresh = GrantKey("default", "c", "c|1", "1"), Secret("r-1")
    cipher = TransferCipher([REFRESH_KEY])
    sealed = cipher.encrypt(key, refresh)
    assert cipher.decrypt(replace(key, tenant="acme"), sealed) == refresh
    for changed in ({"connection": "d"}, {"user_id": "c|2"}, {"provider_user_id": "2"}):
        assert cipher.decrypt(replace(key, **changed), sealed) is None
