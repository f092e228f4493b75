"""The API, a provider or a caller dies in the middle of a call."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, serving
from tests.support.callers import Caller
from tests.support.readers import Rows, Sql
from tests.support.scripted_upstream import Received, Upstream, upstream
from tests.support.wait import WAIT_SECONDS, until

STALE = "/v1/users/oauth2%7Cu2/tokens/custom"
PROXIED = "/v1/proxy/custom/calendar/v3/a"
HALF = bytes(400_000)


class Provider:
    """Answers in two halves, the second when a test says so; takes uploads as they come."""

    def __init__(self, provider: Upstream) -> None:
        self.url, self.received = provider.url, provider.received
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        provider.answer = self._answer

    def _answer(self, received: Received) -> Iterable[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(HALF)) + HALF
        self.half_sent.set()
        self.go_on.wait(WAIT_SECONDS)
        yield HALF


@pytest.fixture
def provider() -> Iterator[Provider]:
    with upstream() as listening:
        found = Provider(listening)
        try:
            yield found
        finally:
            found.go_on.set()


@pytest.fixture
async def stale(rows: Rows, provider: Provider, environment: Path, api_key: str) -> None:
    """A fresh grant, a stale one that nobody renews, and rules for the proxy."""
    await rows.add()
    await rows.add("oauth2|u2", subject="u2", expires_in=5)
    rules = f'[proxy.custom]\nbase_url = "{provider.url}"\nallow = ["GET /calendar/v3/*", "POST /calendar/v3/*"]\n'
    environment.write_text(f"{SETTINGS}{rules}", encoding="utf-8")  # noqa: ASYNC240  # a small file


def user_token(tenant: Emulation) -> str:
    """A front end's access token."""
    return tenant.issue_access_token({"sub": "oauth2|u1", "gty": None, "scope": "proxy:idp"})


@contextmanager
def unfinished_upload(api: ApiClient, credential: str) -> Iterator[socket.socket]:
    """A request whose body ends in the middle."""
    place = urlsplit(api.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0))) as caller:
        head = f"POST {PROXIED} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\nContent-Length: 2000000\r\n\r\n"
        caller.sendall(head.encode() + HALF)
        yield caller


def is_waiting(sql: Sql) -> bool:
    """Whether somebody has asked for a refresh."""
    return bool(sql("SELECT 1 FROM refresh_requests"))


@pytest.mark.usefixtures("stale")
def test_a_killed_api_gives_no_half_answer(
    tenant: Emulation, api_key: str, sql: Sql, provider: Provider, tmp_path: Path
) -> None:
    """SIGKILL breaks waiters, answers and uploads so that neither side takes them for whole."""
    user = user_token(tenant)
    with serving(tmp_path) as api:
        waiter = Caller(f"{api.url}{STALE}?wait=30", api_key)
        download = Caller(f"{api.url}{PROXIED}", user)
        with unfinished_upload(api, user):
            until(lambda: is_waiting(sql) and provider.half_sent.is_set())
            api.process.kill()
            waiter.broken()
            download.broken()
        until(lambda: len(provider.received) == 2, "the provider sees the end of the upload")
    (upload,) = [each for each in provider.received if each.method == "POST"]
    assert len(upload.body) < int(upload.all("content-length")[0])


@pytest.mark.usefixtures("stale")
def test_a_stopping_api_answers_what_is_under_way(
    tenant: Emulation, api_key: str, rows: Rows, sql: Sql, provider: Provider, tmp_path: Path
) -> None:
    """SIGTERM lets waiters have their token and a stream its end; an upload that stops is cut off."""
    user = user_token(tenant)
    with serving(tmp_path) as api:
        waiter = Caller(f"{api.url}{STALE}?wait=30", api_key)
        download = Caller(f"{api.url}{PROXIED}", user)
        until(lambda: is_waiting(sql) and provider.half_sent.is_set())
        api.process.signal(signal.SIGTERM)
        until(lambda: "Waiting for connections to close" in api.process.log)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{api.url}/healthz", trust_env=False)
        (row,) = sql("SELECT id FROM grants WHERE user_id = 'oauth2|u2'")
        rows.age(row["id"], 3600)
        provider.go_on.set()
        answers = [each.ended() for each in (waiter, download)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[1].content == HALF + HALF
        assert api.process.terminate() == 0


@pytest.mark.usefixtures("stale")
def test_a_provider_or_a_caller_dies(tenant: Emulation, provider: Provider, tmp_path: Path) -> None:
    """A caller who is gone ends no upload at the provider; a provider that is gone ends no answer to the caller."""
    user = user_token(tenant)
    with serving(tmp_path) as api:
        with unfinished_upload(api, user):
            time.sleep(0.2)
        until(lambda: len(provider.received) == 1, "the provider sees the end of the upload")
        assert len(provider.received[0].body) < int(provider.received[0].all("content-length")[0])
        provider.go_on.set()
        until(lambda: "in_flight 1.0" in api.call("/metrics").text, "nothing is left over")
        assert len(api.call(PROXIED, user).content) == 2 * len(HALF)
