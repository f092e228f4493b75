"""What a caller may do, by its credential and its entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker.api.access_tokens import AccessToken
from worker.api.callers import PROXY_SCOPE, READ_SCOPE, REFRESH_SCOPE, Caller
from worker.api.problems import ApiProblem
from worker.consumer_rules import ConsumerRules

ALL = (READ_SCOPE, REFRESH_SCOPE, PROXY_SCOPE)
RULES = ConsumerRules("calendar", ("*",), refresh=True, impersonate=True)
BARE = ConsumerRules("calendar", ("*",))
ACTIONS: dict[str, Callable[[Caller], Any]] = {
    "read": Caller.reading,
    "refresh": Caller.refreshing,
    "impersonate": lambda caller: caller.proxied_user("u2"),
    "own": Caller.user_id,
}


def machine(*scopes: str, rules: ConsumerRules | None = RULES) -> Caller:
    return Caller(rules, AccessToken("app", "app", frozenset(scopes), is_machine=True))


def user(*scopes: str, rules: ConsumerRules | None = None) -> Caller:
    return Caller(rules, AccessToken("u1", "spa", frozenset(scopes), is_machine=False))


def may(action: Callable[[Caller], Any], caller: Caller) -> bool:
    """Whether an action is not refused."""
    try:
        action(caller)
    except ApiProblem:
        return False
    return True


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (machine(*ALL), {"read", "refresh", "impersonate"}),
        (machine(READ_SCOPE), {"read"}),
        (machine(REFRESH_SCOPE), set()),
        (machine(READ_SCOPE, REFRESH_SCOPE), {"read", "refresh"}),
        (machine(PROXY_SCOPE), {"impersonate"}),
        (machine(*ALL, rules=BARE), {"read"}),
        (machine(*ALL, rules=None), set()),
        (machine(), set()),
        (Caller(RULES), {"read", "refresh", "impersonate"}),
        (Caller(BARE), {"read"}),
        (user(*ALL), {"own"}),
        (user(PROXY_SCOPE, rules=RULES), {"own"}),
        (user(READ_SCOPE, REFRESH_SCOPE), set()),
        (user(), set()),
    ],
)
def test_each_action_has_its_scope_and_its_entry(caller: Caller, allowed: set[str]) -> None:
    """An application needs scope and entry, an API key the entry; a user's token serves that user alone."""
    assert {name for name, action in ACTIONS.items() if may(action, caller)} == allowed
