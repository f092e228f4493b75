"""Requests made from the description, and path tricks, against a served vault.

``make api-fuzz`` sends 100,000.
"""

from __future__ import annotations

import http.client
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import schemathesis
from schemathesis import Response

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, serving
from tests.support.generated_requests import Case, Generator
from tests.support.keys import ACCESS_KEY
from tests.support.readers import Rows, Sql
from tests.support.scripted_upstream import Received, upstream
from tests.support.scripted_upstream import http as answer
from tests.support.wait import WAIT_SECONDS
from token_vault.secret import Secret
from worker.api.openapi import describe
from worker.proxy_rules import METHODS

REQUESTS = int(os.environ.get("API_FUZZ_REQUESTS", "200"))
# Segments and marks of which path tricks are made.
PARTS = (
    "calendar", "v3", "a", "..", ".", "%2e%2e", "%2E.", "%252e%252e", "/", "//", "%2f", "%5c", "\\", ";", ";a=b", "%00", "%ff",
    "%c0%ae", "%E2%80%AE", "?", "?x=1", "&access_token=x", "#", "@evil.example", "http://evil.example", "%20", "*", "",
    "%63alendar", "admin", ":", "%3b", "%0d%0aX:%20y", "%", "%zz", "~", "x" * 300,
)  # fmt: skip


ANYTHING = [f"{method} /*" for method in sorted(METHODS)]
HOOK_SECRET = "h" * 32
TRANSMITTER = """[hooks.events.google]
issuer = "{0}/"
audience = "client-1"
connections = "custom"
jwks_uri = "{0}/.well-known/jwks.json"
"""


@pytest.fixture
def secrets(api_key: str, database_url: Secret) -> list[str]:
    """What no answer and no log may show, whoever asks."""
    password = urlsplit(database_url.reveal()).password
    return [
        "refresh-of-u1",
        "token-of-hidden",
        api_key,
        ACCESS_KEY.reveal(),
        *([password] if password else []),
    ]


async def add_rows(rows: Rows, sql: Sql) -> None:
    """One grant that the consumer may read, and one that it may not."""
    await rows.add()
    await rows.add(connection="hidden", subject="h1", value="token-of-hidden")
    sql("UPDATE consumers SET refresh = true")


def access_token(tenant: Emulation) -> str:
    """A front end's, of the user who has both grants."""
    return tenant.issue_access_token(
        {"sub": "oauth2|u1", "gty": None, "scope": "proxy:idp", "exp": 4_000_000_000}
    )


def test_the_description_is_one_of_openapi() -> None:
    """It has no member that OpenAPI 3.1 does not know: generators of clients refuse it otherwise."""
    schemathesis.openapi.from_dict(describe()).validate()


async def test_generated_requests(
    environment: Path,
    tenant: Emulation,
    api_key: str,
    rows: Rows,
    sql: Sql,
    secrets: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer is one that the description names; none is a 500, and none shows a secret."""
    await add_rows(rows, sql)
    user = access_token(tenant)
    monkeypatch.setenv("AUTH0_HOOK_SECRET", HOOK_SECRET)
    secrets = [*secrets, HOOK_SECRET]

    def credential(path: str) -> str:
        by_prefix = {"/v1/proxy": user, "/v1/hooks": HOOK_SECRET}
        return next((each for prefix, each in by_prefix.items() if path.startswith(prefix)), api_key)

    def check(case: Case, response: Response) -> None:
        shown = response.text + str(response.headers)
        assert not [each for each in secrets if each in shown], case.operation.label
        may_read = response.status_code == 200 and not case.operation.path.startswith("/v1/proxy")
        assert may_read or "token-of-u1" not in shown
        assert response.status_code < 500 or response.headers.get("retry-after"), shown

    known = {"user_id": "oauth2|u1", "connection": "custom", "path": "calendar", "name": "google"}
    with upstream() as provider:
        provider.answer = echo
        environment.write_text(  # noqa: ASYNC240  # a small file
            f"{SETTINGS}{proxy_rules(provider.url, *ANYTHING)}{TRANSMITTER.format(tenant.auth0_domain)}{tenant.config_toml()}",
            encoding="utf-8",
        )
        with serving(tmp_path) as api:
            generator = Generator(api.url, credential, api.call("/openapi.json").json(), known, check)
            run = generator.run(REQUESTS, examples=min(100, max(2, REQUESTS // 100)))
            log = api.process.log
    print(f"{run.sent} requests: {dict(sorted(run.statuses.items()))}, {sorted(run.answered)}")
    assert {200, 400, 401, 403, 404} <= run.statuses.keys()
    assert 500 not in run.statuses
    token = "/v1/users/{user_id}/tokens/{connection}"
    wanted = {"GET /healthz", "GET /readyz", "GET /metrics", f"GET {token}", f"POST {token}/rejected"}
    assert wanted | {"GET /v1/proxy/{connection}/{path}"} <= run.answered
    assert "request.failed" not in log
    assert not [each for each in (*secrets, "token-of-u1") if each in log]


async def test_path_tricks(
    environment: Path,
    tenant: Emulation,
    api_key: str,
    rows: Rows,
    sql: Sql,
    secrets: list[str],
    tmp_path: Path,
) -> None:
    """Whatever a path is made of, the provider sees allowed paths alone, and the caller no token."""
    await add_rows(rows, sql)
    user = access_token(tenant)
    choose = random.Random(7)
    statuses: set[int] = set()
    with upstream() as provider:
        provider.answer = echo
        environment.write_text(  # noqa: ASYNC240  # a small file
            f"{SETTINGS}{proxy_rules(provider.url, 'GET /calendar/v3/*')}", encoding="utf-8"
        )
        with serving(tmp_path) as api, connected(api.url) as connection:
            for _ in range(REQUESTS):
                tricks = "".join(
                    choose.choice(PARTS) + choose.choice(("/", "")) for _ in range(choose.randint(1, 6))
                )
                prefix = choose.choice(
                    ("/v1/proxy/custom/calendar/v3/", "/v1/proxy/custom/", "/v1/proxy/", "/")
                )
                connection.request("GET", prefix + tricks, headers={"Authorization": f"Bearer {user}"})
                got = connection.getresponse()
                shown = got.read().decode("latin-1") + str(got.headers)
                statuses.add(got.status)
                assert got.status < 500, (prefix + tricks, shown)
                assert not [each for each in (*secrets, "token-of-u1") if each in shown], prefix + tricks
                for received in provider.received:
                    assert_allowed(received.target)
                provider.received.clear()
            assert "request.failed" not in api.process.log
    assert {200, 400, 403, 404} <= statuses


def echo(received: Received) -> Iterator[bytes]:
    """Answer with all that came, the token among it."""
    yield from answer(200, json.dumps(received.headers).encode(), "Content-Type: application/json")


def proxy_rules(url: str, *allow: str) -> str:
    """Rules for the provider."""
    return f'[proxy.custom]\nbase_url = "{url}/base"\nallow = {json.dumps(allow)}\n'


def assert_allowed(target: str) -> None:
    """The path is below what the rule allows, however it is read."""
    path = target.partition("?")[0]
    assert path.startswith("/base/calendar/v3/"), target
    for _ in range(3):
        assert "\\" not in path, target
        assert ";" not in path, target
        assert "//" not in path, target
        assert not {".", ".."} & set(path.split("/")), target
        path = unquote(path)


@contextmanager
def connected(url: str) -> Iterator[http.client.HTTPConnection]:
    """A connection that sends targets as they are."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT_SECONDS)
    try:
        yield connection
    finally:
        connection.close()
