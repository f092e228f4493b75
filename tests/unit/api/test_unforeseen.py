"""A failure that nobody foresaw, as the caller and the log see it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.api import application
from worker.api.application import create_app
from worker.settings import Settings
from worker.settings.api import ApiSettings


async def fail(request: Request) -> Response:
    """Fail with a secret in the error's text."""
    raise RuntimeError("token-of-u1")


def test_a_failure_is_a_problem_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets a problem document with the request's id, and nothing of the error's text."""
    monkeypatch.setattr(application, "routes", lambda _: [Route("/fail", fail)])
    settings = Settings.model_construct(api=ApiSettings())  # type: ignore[call-arg]  # no more is looked at
    sent: list[MutableMapping[str, Any]] = []

    async def run() -> None:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/fail", "headers": [(b"x-request-id", b"r-1")]}
        await create_app(settings)(scope | {"query_string": b"", "root_path": ""}, receive, send)

    asyncio.run(run())
    start, body = sent
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert b'"request_id":"r-1"' in body["body"]
    assert b"token-of-u1" not in body["body"]
