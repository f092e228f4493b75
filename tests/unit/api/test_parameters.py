"""What is read of a request's path, query and headers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from worker.api.parameters import TokenParameters, named_account, named_user
from worker.api.problems import ApiProblem

LONGEST = "x" * 500


def request(query: str = "", *headers: tuple[str, str], **path: str) -> Request:
    """A request for a user's token."""
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "path_params": {"user_id": "oauth2|u1", "connection": "custom", **path},
        }
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"wait": 5.0, "min_ttl": None, "scopes": None, "needs": (), "resource": None}),
        ("wait=0&min_ttl=0", {"wait": 0.0, "min_ttl": 0.0}),
        ("wait=30&min_ttl=86400", {"wait": 30.0, "min_ttl": 86_400.0}),
        ("needs=a+b%20c&scopes=d", {"needs": ("a", "b", "c"), "scopes": ("d",)}),
        (f"account={LONGEST}&reason=%C3%A9", {"account": LONGEST, "reason": "\u00e9"}),
        ("scopes=" + "+".join("abcdefghij"[n % 10] for n in range(100)), {"needs": ()}),
    ],
)
def test_what_is_understood_is_read(query: str, expected: dict[str, Any]) -> None:
    """Within the bounds, and with the documented defaults."""
    found = TokenParameters.of(request(query))
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "query",
    [
        "wait=30.1",
        "min_ttl=86401",
        "min_ttl=",
        f"account={LONGEST}x",
        f"reason={LONGEST}x",
        "account=a%00b",
        "needs=" + "+".join(["a"] * 101),
        "needs=%C3%A9",
        "needs=a%01b",
        "scopes=%7F",
        "tenant=",
        "WAIT=1",
    ],
)
def test_what_is_not_understood_is_refused(query: str) -> None:
    """Beyond the bounds by one, or of another kind."""
    with pytest.raises(ApiProblem) as refused:
        TokenParameters.of(request(query))
    assert refused.value.type.code == "bad-request"


@pytest.mark.parametrize(
    "path", [{"user_id": ""}, {"user_id": f"{LONGEST}x"}, {"user_id": "a\0"}, {"connection": f"{LONGEST}x"}]
)
def test_ids_are_bounded(path: dict[str, str]) -> None:
    """An empty user would mean the connection's administrator."""
    with pytest.raises(ApiProblem):
        TokenParameters.of(request(**path))
    TokenParameters.of(request(user_id=LONGEST, connection=LONGEST))


def test_an_account_and_a_user_are_named_in_headers() -> None:
    """The user percent-encoded, as in a path; nobody by none, or by an empty one; two by no means."""
    account, user = "x-token-vault-account", "x-token-vault-user"
    assert named_account(request("", (account, "1111"))) == "1111"
    assert named_user(request("", (user, "google-oauth2%7C1"))) == "google-oauth2|1"
    for nothing in (request(), request("", (account, ""), (user, ""))):
        assert named_account(nothing) is None
        assert named_user(nothing) is None
    for refused in (request("", (user, "a"), (user, "a")), request("", (user, f"{LONGEST}x"))):
        with pytest.raises(ApiProblem):
            named_user(refused)
    with pytest.raises(ApiProblem):
        named_account(request("", (account, f"{LONGEST}x")))
