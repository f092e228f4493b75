"""Ways to renew besides a refresh token for a pair, against a real endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.support.keys import ACCESS_KEY
from tests.support.renewals import Renewals
from token_vault import TokenVault
from token_vault.secret import Secret
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ResolvedConnection
from worker.runtime import Runtime

CONNECTION = "office"


@contextmanager
def endpoint(answer: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """Serve a token endpoint that always gives this answer; yield its URL and what it was sent."""
    sent: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def renewing_at(found: ResolvedConnection, url: str, declared: dict[str, Any]) -> ResolvedConnection:
    assert found.provider is not None
    assert found.client is not None
    provider = replace(found.provider, **declared)
    return replace(found, provider=provider, client=replace(found.client, token_url=url))


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a worker's connections renew at this URL, as declared."""

    def declared(worker: Runtime, url: str, **fields: Any) -> None:
        load = worker.connections.load

        async def changed(*arguments: Any, **options: Any) -> Any:
            loaded = await load(*arguments, **options)
            return {key: renewing_at(found, url, fields) for key, found in loaded.items()}

        monkeypatch.setattr(worker.connections, "load", changed)

    return declared


async def test_an_answer_without_token_prolongs_the_current_one(
    renewals: Renewals, declare: Callable[..., None], database_url: Secret
) -> None:
    """Where an answer only says that the current token goes on, that token is kept, with its new end."""
    (user_id,) = renewals.connect(CONNECTION)
    worker = await renewals.synced()
    with TokenVault(database_url, [ACCESS_KEY]) as reader, endpoint({"result": "0000"}) as (url, sent):
        before, row = reader.user_token(user_id, CONNECTION), renewals.row(user_id)
        declare(worker, url, prolongs={"result": "0000"}, default_life=timedelta(days=30))
        renewals.make_due()
        assert await worker.engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
        after = reader.user_token(user_id, CONNECTION)
    assert len(sent) == 1
    assert after.value == before.value
    assert after.expires_at is not None
    assert after.expires_at - row["now"] > timedelta(days=29)
    now = renewals.row(user_id)
    assert (now["state"], now["refresh_version"]) == ("active", row["refresh_version"])


async def test_client_credentials_again(
    renewals: Renewals, declare: Callable[..., None], database_url: Secret
) -> None:
    """Where the client itself is what a token stands for, a new one is asked for with no token sent."""
    (user_id,) = renewals.connect(CONNECTION)
    worker = await renewals.synced()
    fresh = {"access_token": "of-the-client", "expires_in": 600}
    with TokenVault(database_url, [ACCESS_KEY]) as reader, endpoint(fresh) as (url, sent):
        declare(worker, url, sends="nothing", grant_type="client_credentials")
        renewals.make_due()
        assert await worker.engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
        assert reader.user_token(user_id, CONNECTION).value == "of-the-client"
    [request] = sent
    assert request["grant_type"] == ["client_credentials"]
    assert "refresh_token" not in request
    assert renewals.row(user_id)["state"] == "active"
