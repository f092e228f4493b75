"""The outermost middleware: how many requests at a time, and their ids."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from worker.api.metrics import Metrics
from worker.api.middleware import Gate

Headers = Sequence[tuple[bytes, bytes]]


class Served:
    """An app behind the gate that answers once it may."""

    def __init__(self, most: int) -> None:
        self.may_answer = asyncio.Event()
        self._gate = Gate(self._app, metrics=Metrics(), max_concurrent=most)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def get(self, path: str = "/", headers: Headers = ()) -> tuple[int, dict[bytes, bytes]]:
        """Return status and headers of an answer."""
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "headers": [*headers], "query_string": b""}
        await self._gate(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])


async def test_only_so_many_requests_run_at_a_time() -> None:
    """A further one is refused at once, but for health and metrics; what has ended makes room."""
    served = Served(2)
    running = [asyncio.create_task(served.get()) for _ in range(2)]
    await asyncio.sleep(0)
    excess = asyncio.create_task(served.get())
    await asyncio.sleep(0)
    checks = [asyncio.create_task(served.get(path)) for path in ("/healthz", "/readyz", "/metrics")]
    await asyncio.sleep(0)
    served.may_answer.set()
    assert [status for status, _ in await asyncio.gather(*running, excess, *checks)] == [204] * 2 + [503] + [
        204
    ] * 3
    for _ in range(5):
        assert (await served.get())[0] == 204


@pytest.mark.parametrize(
    ("given", "shown"),
    [(b"r-7", b"r-7"), (b"r-7 x", None), (b"r-7\r\nx: y", None), (b"x" * 129, None), (b"", None)],
)
async def test_a_request_id_is_the_caller_s_if_it_can_be_logged(given: bytes, shown: bytes | None) -> None:
    """Anything else is replaced by a new one, and each answer says how its body is to be read."""
    served = Served(1)
    served.may_answer.set()
    _, headers = await served.get(headers=[(b"x-request-id", given)])
    assert (headers[b"x-request-id"] == given) is (shown is not None)
    assert len(headers[b"x-request-id"]) == len(shown or b"0" * 32)
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("after", [b"", b"\r\nx: y", b"-00"])
async def test_a_trace_is_passed_on_if_it_is_one(after: bytes) -> None:
    """Its id names the request where the caller gives no other."""
    served = Served(1)
    served.may_answer.set()
    given = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01" + after
    _, headers = await served.get(headers=[(b"traceparent", given)])
    assert headers.get(b"traceparent") == (None if after else given)
    assert (headers[b"x-request-id"] == b"a" * 32) is not bool(after)
