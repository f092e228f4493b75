"""Bodies that are longer than they may be."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from worker.api.body import read_body
from worker.api.problems import ApiProblem


async def test_a_body_is_read_no_further_than_its_bound() -> None:
    """Who sends without end fills no memory."""
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": received < 100}

    with pytest.raises(ApiProblem, match="more than 3000 bytes"):
        await read_body(Request({"type": "http", "headers": []}, receive), 3000)
    assert received == 4
