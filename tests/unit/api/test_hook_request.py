"""Whose hook a request is, and which bodies are read."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.requests import Request

from token_vault.secret import Secret
from worker.api.hooks.request import find_sender, read_event_body
from worker.api.problems import ApiProblem

SECRETS = {"first": (Secret("a" * 32), Secret("b" * 32)), "second": (Secret("c" * 32),)}


def request(*headers: tuple[str, str]) -> Request:
    """A request with these headers and no body."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    raw = [(name.encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "headers": raw}, receive)


@pytest.mark.parametrize(("secret", "sender"), [("a", "first"), ("b", "first"), ("c", "second"), ("d", None)])
def test_a_secret_is_of_one_tenant(secret: str, sender: str | None) -> None:
    """In each form in which Auth0 sends it; another tenant's users are not meant."""
    value = secret * 32
    basic = base64.b64encode(f"auth0:{value}".encode()).decode()
    for header in (value, f"Bearer {value}", f"bEARER {value}", f"Basic {basic}"):
        assert find_sender(request(("authorization", header)), SECRETS) == sender, header


def test_of_two_secrets_none_is_believed() -> None:
    """A gateway may have checked the other one."""
    given = [("authorization", "a" * 32), ("authorization", "c" * 32)]
    assert find_sender(request(*given), SECRETS) is None
    assert find_sender(request(), SECRETS) is None


async def test_a_compressed_body_is_refused() -> None:
    """Whatever it is compressed with: its bound would say nothing."""
    for encoding in ("gzip", "br", "deflate, identity"):
        with pytest.raises(ApiProblem, match="compressed"):
            await read_event_body(request(("content-encoding", encoding)), 10)
    assert await read_event_body(request(("content-encoding", "Identity")), 10) == b""
