"""What an app may ask a token for."""

from __future__ import annotations

from typing import Any

import pytest

from token_vault.token_target import TokenTarget


def test_one_target_however_it_is_written() -> None:
    """The order of scopes and their repetition make no other token."""
    assert TokenTarget.of(None, ["b", "a", "b"]) == TokenTarget.of(None, ("a", "b")) == TokenTarget("", "a b")
    assert TokenTarget.of("https://api.example", None) == TokenTarget("https://api.example")


def test_nothing_is_the_grants_own_token() -> None:
    """Without resource and scopes the grant's own token is meant."""
    assert TokenTarget.of(None, None).is_default
    assert TokenTarget.of(None, []).is_default
    assert not TokenTarget.of("r", None).is_default
    assert not TokenTarget.of(None, ["a"]).is_default


@pytest.mark.parametrize(
    ("resource", "scopes", "error"),
    [
        ("", None, ValueError),
        (1, None, TypeError),
        (None, "read", TypeError),
        (None, [None, ""], ValueError),
        (None, ["two words"], ValueError),
        (None, [b"bytes"], TypeError),
        ("line\nbreak", None, ValueError),
        ("x" * 2001, None, ValueError),
        (None, [f"{number:0100}" for number in range(30)], ValueError),
    ],
)
def test_a_mistake_is_refused(resource: Any, scopes: Any, error: type[Exception]) -> None:
    """What cannot be a resource or scope is the caller's mistake, before anything is asked for."""
    with pytest.raises(error):
        TokenTarget.of(resource, scopes)
