"""Every error of Auth0's has a type, a place and a remedy, and shows nothing of the body."""

import traceback

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.auth0_server import Answer, FakeTime, Server, client_of, running
from token_vault.errors import VaultError
from worker.auth0 import ManagementClient, RetryPolicy
from worker.auth0.errors import (
    Auth0Error,
    Auth0NotFound,
    Auth0RateLimited,
    Auth0Refused,
    Auth0Unreachable,
    MalformedAnswer,
    MissingScope,
)
from worker.http.client import make_http_client

LEAK = "ya29.hunter2"


def oauth(status: int, code: str, text: str = "Unauthorized") -> Answer:
    return Answer(status, {"error": code, "error_description": text + " " + LEAK})


def problem(status: int, message: str = "", code: str | None = None) -> Answer:
    return Answer(
        status,
        {"statusCode": status, "error": LEAK, "message": f"{message} {LEAK}", "errorCode": code},
    )


HTML = Answer(200, b"<html>" + LEAK.encode(), {"Content-Type": "text/html"})
ONCE = RetryPolicy(max_attempts=1, max_wait_seconds=0)

Case = tuple[Answer, type[Auth0Error], str, str | None]

TOKEN_ERRORS: list[Case] = [
    (oauth(401, "access_denied"), Auth0Refused, "AUTH0_CLIENT_ID and AUTH0_CLIENT_SECRET", "access_denied"),
    (oauth(401, "invalid_client"), Auth0Refused, "AUTH0_PRIVATE_KEY", "invalid_client"),
    (oauth(403, "access_denied", "Service not found: x"), Auth0Refused, "AUTH0_AUDIENCE", "access_denied"),
    (oauth(403, "access_denied", "Client is not authorized"), Auth0Refused, "client grant", "access_denied"),
    (oauth(403, "unauthorized_client"), Auth0Refused, "client credentials grant type", "unauthorized_client"),
    (oauth(429, "too_many_requests"), Auth0RateLimited, "rate limit", "too_many_requests"),
    (oauth(400, "invalid_request"), Auth0Error, r"400 \(invalid_request\)", "invalid_request"),
    (Answer(404, b"Not Found"), MalformedAnswer, "AUTH0_DOMAIN", None),
    (Answer(302, b"", {"Location": f"https://x/?t={LEAK}"}), MalformedAnswer, "redirected", None),
    (Answer(500, HTML.body), Auth0Unreachable, "500", None),
    (HTML, MalformedAnswer, "not JSON", None),
]

API_ERRORS: list[Case] = [
    (problem(401, "Expired token"), Auth0Refused, "AUTH0_AUDIENCE", None),
    (problem(403, "", "access_denied"), Auth0Refused, "client grant", "access_denied"),
    (problem(404, "", "inexistent_user"), Auth0NotFound, r"no user 'auth0\|1'", "inexistent_user"),
    (Answer(404, HTML.body), MalformedAnswer, "404", None),
    (problem(400, "", "invalid_query_string"), Auth0Error, "400", "invalid_query_string"),
    (Answer(414, HTML.body), Auth0Error, "too long", None),
    (problem(429, "Global limit", "too_many_requests"), Auth0RateLimited, "rate limit", "too_many_requests"),
    (Answer(429, HTML.body), Auth0RateLimited, "rate limit", None),
    (problem(501), Auth0Unreachable, "501", None),
    (problem(503), Auth0Unreachable, "503", None),
    (Answer(301, b"", {"Location": "https://elsewhere/"}), MalformedAnswer, "redirected", None),
    (HTML, MalformedAnswer, "not JSON", None),
    (
        Answer(200, b'{"user_id":"auth0|1","identities":[{"access_token":"ya29.hunter2'),
        MalformedAnswer,
        "JSON",
        None,
    ),
    (Answer(200, b"[" * 100_000), MalformedAnswer, "not JSON", None),
    (Answer(200, [LEAK]), MalformedAnswer, "is not an object", None),
    (Answer(200, {"user_id": 1, "x": LEAK}), MalformedAnswer, "user_id is not a string", None),
]


async def error_of(server: Server, client: ManagementClient) -> VaultError:
    with capture_logs() as logs, pytest.raises(VaultError) as raised:
        await client.user("auth0|1")
    error = raised.value
    shown = "".join(traceback.format_exception(error)) + str(logs)
    seen: BaseException | None = error
    while seen:  # what a crash reporter would walk
        shown += repr(seen) + str(vars(seen))
        seen = seen.__cause__ or seen.__context__
    assert LEAK not in shown
    assert "the-client-secret" not in shown
    assert "token-1" not in shown
    return error


@pytest.mark.parametrize(("answer", "kind", "words", "code"), TOKEN_ERRORS)
async def test_token_errors(answer: Answer, kind: type[Auth0Error], words: str, code: str | None) -> None:
    """Each refusal of a token says what is wrong, where, and the remedy."""
    async with running() as server, client_of(server, FakeTime(), retries=ONCE) as client:
        server.token_script = [answer]
        error = await error_of(server, client)
        assert type(error) is kind
        assert error.code == code
        assert f"POST /oauth/token at 127.0.0.1:{server.port}" in str(error)
        with pytest.raises(kind, match=words):
            raise error
        assert not server.calls


@pytest.mark.parametrize(("answer", "kind", "words", "code"), API_ERRORS)
async def test_api_errors(answer: Answer, kind: type[Auth0Error], words: str, code: str | None) -> None:
    """Each refusal of a call says what is wrong, where, and the remedy."""
    async with running() as server, client_of(server, FakeTime(), retries=ONCE) as client:
        server.api = lambda _: answer
        error = await error_of(server, client)
        assert type(error) is kind
        assert isinstance(error, Auth0Error)
        assert error.code == code
        assert f"127.0.0.1:{server.port}" in str(error)
        with pytest.raises(kind, match=words):
            raise error


async def test_insufficient_scope_names_the_scopes() -> None:
    """A 403 for lack of scopes names those that Auth0 expects, and what they are for."""
    async with running() as server, client_of(server, FakeTime()) as client:
        server.api = lambda _: problem(
            403, "Insufficient scope, expected any of: read:users,read:user_idp_tokens", "insufficient_scope"
        )
        error = await error_of(server, client)
        assert isinstance(error, MissingScope)
        assert error.scopes == ("read:users", "read:user_idp_tokens")
        server.api = lambda _: problem(403, "Reworded", "insufficient_scope")
        error = await error_of(server, client)
        assert isinstance(error, MissingScope)
        assert error.scopes == ("read:users",)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"ya29.hunter2 is no HTTP\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"access_token":"ya29.hunter2"',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\nya29.hunter2",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nya29.hunter2",
        b"HTTP/1.1 200 OK\r\nya29.hunter2",
        b"HTTP/1.1 200 OK\r\nX: " + b"ya29.hunter2" * 10_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_answer(raw: bytes) -> None:
    """A connection that gives no whole answer is retried, then reported without showing anything of either side."""
    async with (
        running() as server,
        client_of(server, FakeTime(), retries=RetryPolicy(max_attempts=2)) as client,
    ):
        server.api = lambda _: Answer(raw=raw)
        error = await error_of(server, client)
        assert isinstance(error, Auth0Unreachable)
        assert len(server.calls) >= 2  # a dropped connection is tried once more below HTTP


async def test_the_transport_hides_the_request() -> None:
    """An answer that is no HTTP becomes an error which does not carry the request's headers."""
    async with running() as server, make_http_client(timeout=httpx.Timeout(5)) as client:
        server.api = lambda _: Answer(raw=b"no HTTP\r\n\r\n")
        with pytest.raises(httpx.RemoteProtocolError) as error:
            await client.get(f"http://127.0.0.1:{server.port}/", headers={"Authorization": f"Bearer {LEAK}"})
        assert LEAK not in str(error.value)
        assert error.value.__context__ is None
