"""The management token: minted rarely, shared, and renewed in time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.support.auth0_server import Answer, FakeTime, Request, Server, client_of, running
from token_vault.secret import Secret
from worker.auth0 import Credentials, ManagementToken, MemoryTokenStore
from worker.auth0.errors import Auth0Refused, MalformedAnswer, MissingScope

USER = {"user_id": "auth0|1", "identities": []}


def only_token(value: str) -> "Server":
    """A server that knows one token."""
    server = Server()

    def api(request: Request) -> Answer:
        known = request.headers["authorization"] == f"Bearer {value}"
        return Answer(200, USER) if known else Answer(401, {"statusCode": 401, "error": "Unauthorized"})

    server.api = api
    return server


async def test_the_request_is_as_documented() -> None:
    """The token request is a JSON body, and calls carry the token and our name."""
    async with running() as server:
        server.api = lambda _: Answer(200, USER)
        async with client_of(server, FakeTime()) as client:
            await client.user("auth0|1")
        [mint], [call] = server.mints, server.calls
        assert mint.method == "POST"
        assert mint.headers["content-type"] == "application/json"
        assert json.loads(mint.body) == {
            "grant_type": "client_credentials",
            "client_id": "the-client",
            "client_secret": "the-client-secret",
            "audience": f"http://127.0.0.1:{server.port}/api/v2/",
        }
        assert call.headers["authorization"] == "Bearer token-1"
        assert call.headers["user-agent"].startswith("idp-token-vault/")


async def test_concurrent_callers_mint_once() -> None:
    """Twenty callers of two clients on one store cost one token."""
    async with running() as server:
        server.api = lambda _: Answer(200, USER)
        store, time = MemoryTokenStore(), FakeTime()
        async with client_of(server, time, store=store) as one, client_of(server, time, store=store) as two:
            await asyncio.gather(*(client.user("auth0|1") for client in (one, two) for _ in range(10)))
        assert len(server.mints) == 1


class CountingStore(MemoryTokenStore):
    """Counts those who ask for the right to mint: each of them holds a connection while waiting."""

    asked = 0

    @asynccontextmanager
    async def minting(self) -> AsyncIterator[None]:
        self.asked += 1
        async with super().minting():
            yield


async def test_one_process_asks_the_store_once() -> None:
    """The callers of one client queue up among themselves, not at the store."""
    async with running() as server:
        store = CountingStore()
        async with client_of(server, FakeTime(), store=store) as client:
            await asyncio.gather(*(client.scopes() for _ in range(10)))
        assert store.asked == 1


@pytest.mark.parametrize(("life", "kept", "renewed"), [(86_400, 86_339, 86_340), (100, 49, 50)])
async def test_renewed_shortly_before_its_end(life: int, kept: int, renewed: int) -> None:
    """A token is renewed a minute before its end, a short-lived one at half of its life."""
    async with running() as server:
        server.life = life
        time = FakeTime()
        start = time.now
        async with client_of(server, time) as client:
            for age, mints in ((0, 1), (kept, 1), (renewed, 2)):
                time.now = start + timedelta(seconds=age)
                await client.scopes()
                assert len(server.mints) == mints


async def test_a_stored_token_is_used_until_its_last_minute() -> None:
    """A token minted by another process is used, unless it is about to end."""
    time = FakeTime()
    for left, mints in ((61, 0), (60, 1)):
        async with running() as server:
            store = MemoryTokenStore()
            end = time.now + timedelta(seconds=left)
            await store.put(ManagementToken(Secret("shared"), end, frozenset({"read:users"})))
            async with client_of(server, time, store=store) as client:
                await client.scopes()
            assert len(server.mints) == mints


async def test_a_short_lived_token_is_shared_too() -> None:
    """Who waited for the right to mint takes what the other minted, however short its life is."""
    async with running() as server:
        server.life = 20
        store, time = MemoryTokenStore(), FakeTime()
        async with client_of(server, time, store=store) as one, client_of(server, time, store=store) as two:
            await asyncio.gather(one.scopes(), two.scopes())
        assert len(server.mints) == 1


async def test_a_refused_token_is_minted_anew_once() -> None:
    """After a 401 all callers go on with one new token, and the store shares it."""
    async with running(only_token("token-2")) as server:
        store = MemoryTokenStore()
        async with client_of(server, FakeTime(), store=store) as client:
            await asyncio.gather(*(client.user("auth0|1") for _ in range(5)))
        assert len(server.mints) == 2
        shared = await store.get()
        assert shared
        assert shared.value == Secret("token-2")


async def test_a_second_refusal_is_an_error() -> None:
    """A new token that is refused as well ends the call."""
    async with running(only_token("nothing we get")) as server:
        async with client_of(server, FakeTime()) as client:
            with pytest.raises(Auth0Refused, match="AUTH0_AUDIENCE"):
                await client.user("auth0|1")
        assert len(server.mints) == 2
        assert len(server.calls) == 2


async def test_the_token_that_another_process_minted_is_taken_after_a_refusal() -> None:
    """A 401 costs no token where another process has replaced it already."""
    async with running(only_token("theirs")) as server:
        store, time = MemoryTokenStore(), FakeTime()
        async with client_of(server, time, store=store) as client:
            await client.scopes()
            await store.put(ManagementToken(Secret("theirs"), time.now + timedelta(days=1), None))
            await client.user("auth0|1")
        assert len(server.mints) == 1


async def test_missing_scopes_are_named_with_what_breaks() -> None:
    """A silent lack of scopes becomes an error that names each and its consequence."""
    async with running() as server:
        server.scope = "read:users read:connections"
        async with client_of(server, FakeTime()) as client:
            await client.require("read:users")
            with pytest.raises(MissingScope, match=r"without their tokens.*without options") as missing:
                await client.require("read:users", "read:user_idp_tokens", "read:connections_options")
        assert missing.value.scopes == ("read:user_idp_tokens", "read:connections_options")
        assert len(server.mints) == 1


async def test_a_scope_granted_since_is_found() -> None:
    """A shared token from before the operator's fix is replaced once, not used for a day."""
    async with running() as server:
        store, time = MemoryTokenStore(), FakeTime()
        await store.put(ManagementToken(Secret("old"), time.now + timedelta(days=1), frozenset()))
        async with client_of(server, time, store=store) as client:
            await client.require("read:users")
            with pytest.raises(MissingScope):
                await client.require("read:logs")
            assert len(server.mints) == 1
            # Another process has found it since: its token is taken.
            theirs = ManagementToken(Secret("new"), time.now + timedelta(days=1), frozenset({"read:logs"}))
            await store.put(theirs)
            await client.require("read:logs")
        assert len(server.mints) == 1


async def test_a_scope_that_a_call_lacks_is_found_once_it_is_granted() -> None:
    """A token whose scopes are unknown is not used on when a call was refused for a scope."""
    async with running() as server:
        store, time = MemoryTokenStore(), FakeTime()
        refusal = {
            "statusCode": 403,
            "errorCode": "insufficient_scope",
            "message": "expected any of: read:users",
        }
        server.api = lambda request: (
            Answer(200, USER) if request.headers["authorization"] == "Bearer new" else Answer(403, refusal)
        )
        async with client_of(server, time, store=store) as client:
            with pytest.raises(MissingScope, match="read:users"):
                await client.user("auth0|1")
            await store.put(ManagementToken(Secret("new"), time.now + timedelta(days=1), None))
            assert (await client.user("auth0|1")).user_id == "auth0|1"


async def test_unnamed_scopes_are_unknown_not_missing() -> None:
    """An answer without scope leaves the verdict to the calls themselves."""
    async with running() as server:
        server.scope = None
        async with client_of(server, FakeTime()) as client:
            assert await client.scopes() is None
            await client.require("read:users")


TOKEN = {"access_token": "abc", "expires_in": 60, "scope": "a b"}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        TOKEN | {"access_token": ""},
        TOKEN | {"access_token": 7},
        TOKEN | {"access_token": "a\r\nX: hunter2"},
        TOKEN | {"access_token": "hunter2-é"},
        TOKEN | {"expires_in": None},
        TOKEN | {"expires_in": 0},
        TOKEN | {"expires_in": -1},
        TOKEN | {"expires_in": "soon"},
        b'{"access_token":"hunter2","expi',
    ],
)
async def test_unusable_token_answers_are_named(body: object) -> None:
    """A token answer that cannot be used is malformed, and none of it is shown."""
    async with running() as server:
        server.token_script = [Answer(200, body)]
        async with client_of(server, FakeTime()) as client:
            with pytest.raises(MalformedAnswer, match="oauth/token") as malformed:
                await client.scopes()
        assert "hunter2" not in str(malformed.value)


async def test_no_cookie_is_kept() -> None:
    """A cookie of Auth0's is not sent back: calls carry no state."""
    async with running() as server:
        server.api = lambda _: Answer(200, USER, {"Set-Cookie": "did=1; Path=/"})
        # By name: no client keeps cookies of an address.
        who = Credentials(f"http://localhost:{server.port}", "id", Secret("s"))
        async with client_of(server, FakeTime(), who=who) as client:
            await client.user("auth0|1")
            await client.user("auth0|1")
        assert all("cookie" not in request.headers for request in server.requests)
