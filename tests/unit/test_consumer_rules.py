"""What a consumer may read, and how its API key is known."""

from __future__ import annotations

import pytest

from token_vault.grant_key import GrantKey
from worker.consumer_rules import ConsumerRules, hash_api_key, make_api_key, matches

USER, ADMIN = GrantKey("acme", "corp-google", "auth0|1", "1"), GrantKey("acme", "corp-google")


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("google-oauth2", "google-oauth2", True),
        ("google-oauth2", "google-oauth22", False),
        ("google-oauth2", "Google-oauth2", False),
        ("corp-*", "corp-", True),
        ("corp-*", "corp-a*b", True),
        ("corp-*", "xcorp-a", False),
        ("*", "", True),
        ("a*b*c", "a-c-b-c", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "abb", False),
        ("a?c", "abc", False),
        ("a_c", "abc", False),
        ("a%", "abc", False),
        ("[ab]*", "abc", False),
        ("a\\*", "a\\b", True),
        ("corp-*", "corp-\n", True),
    ],
)
def test_a_glob_matches_a_whole_name(glob: str, name: str, expected: bool) -> None:
    """A star stands for any characters, and nothing else is a wildcard."""
    assert matches(glob, name) is expected


def test_each_right_is_needed() -> None:
    """A grant is read where its kind, its tenant and its connection are all named."""
    rules = ConsumerRules("app", ("corp-*",))
    assert rules.may_read(USER)
    assert not rules.may_read(ADMIN)
    assert ConsumerRules("app", ("corp-*",), users=False, admins=True).may_read(ADMIN)
    assert not ConsumerRules("app", ("corp-*",), users=False, admins=True).may_read(USER)
    assert not ConsumerRules("app", ("google-oauth2",)).may_read(USER)
    assert not ConsumerRules("app", ()).may_read(USER)
    assert not ConsumerRules("app", ("*",), tenants=("other",)).may_read(USER)
    assert ConsumerRules("app", ("*",), tenants=("other", "acme")).may_read(USER)


def test_a_refresh_is_a_right_of_its_own() -> None:
    """Who may read may have nothing replaced, and who may have it replaced may not read more."""
    assert not ConsumerRules("app", ("*",)).may_refresh(USER)
    assert ConsumerRules("app", ("*",), refresh=True).may_refresh(USER)
    assert not ConsumerRules("app", ("*",), refresh=True).may_refresh(ADMIN)


def test_an_api_key_is_known_by_its_hash() -> None:
    """The hash tells one key, and none where there is none."""
    key = make_api_key()
    rules = ConsumerRules("app", ("*",), api_key_hash=hash_api_key(key))
    assert key not in str(rules)
    assert rules.has_api_key(key)
    assert not rules.has_api_key(key + "x")
    assert not rules.has_api_key("")
    assert not rules.has_api_key("\ud800")
    assert not ConsumerRules("app", ("*",), client_id="c").has_api_key(key)
    assert make_api_key() != key
