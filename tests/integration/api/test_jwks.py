"""The issuer's keys: fetched seldom, followed when they rotate, kept while the issuer is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import jwt
import pytest

from emulators.client import Emulation
from tests.support.api_server import AUDIENCE
from tests.support.scripted_upstream import Received, http, upstream
from tests.support.wait import WAIT_SECONDS, until_async
from token_vault.errors import TemporarilyUnavailable
from worker.api import access_tokens, jwks
from worker.api.access_tokens import Verifier
from worker.api.jwks import Jwks
from worker.api.problems import ApiProblem


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def key_id(tenant: Emulation) -> str:
    """The id of the key that the issuer signs with now."""
    return str(jwt.get_unverified_header(tenant.issue_access_token())["kid"])


async def test_a_withdrawn_key_is_distrusted_within_a_minute(tenant: Emulation) -> None:
    """A key that left the set verifies nothing any more, once the set was fetched anew."""
    clock = Clock()
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", clock)
    old = key_id(tenant)
    assert await keys.key(old)
    tenant.rotate_signing_keys(withdraw=True)
    new = key_id(tenant)
    assert await keys.key(new) is None  # fetched just now: strangers cannot have it fetched again
    clock.now += jwks.MIN_FETCH_SECONDS + 1
    assert await keys.key(new)
    assert await keys.key(old) is None
    tenant.rotate_signing_keys(withdraw=True)
    clock.now += jwks.FRESH_SECONDS + 1
    assert await keys.key(new) is None


async def test_unknown_keys_cost_three_fetches_a_minute(tenant: Emulation) -> None:
    """However many tokens name unknown keys, the issuer is seldom asked."""
    clock = Clock()
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", clock)
    for second in range(60):
        for each in range(5):
            assert await keys.key(f"unknown-{second}-{each}") is None
        clock.now += 1
    assert tenant.jwks_fetches() <= 3


async def test_the_last_keys_hold_while_the_issuer_is_away(tenant: Emulation) -> None:
    """For an hour the last set is used; then nobody can tell, and callers are told to come again."""
    clock = Clock()
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", clock)
    kid = key_id(tenant)
    assert await keys.key(kid)
    keys.url = "http://127.0.0.1:9/jwks.json"
    clock.now += jwks.MAX_STALE_SECONDS - 1
    assert await keys.key(kid)
    clock.now += 2
    with pytest.raises(TemporarilyUnavailable):
        await keys.key(kid)


async def test_a_key_set_that_is_none_leaves_the_last(tenant: Emulation) -> None:
    """Whatever the issuer's host answers, the keys that were there are used, and nobody gets a failure."""
    clock = Clock()
    kid = key_id(tenant)
    async with httpx.AsyncClient(trust_env=False) as client:
        good = (await client.get(f"{tenant.auth0_domain}/.well-known/jwks.json")).content
    bodies = [good, b"[" * 100_000, b"9" * 10_000, b"\xff", b"", b"<html>", b" " * 300_000, b'{"keys": {}}']
    with upstream() as issuer:
        issuer.answer = lambda _: http(200, bodies[len(issuer.received) - 1])
        keys = Jwks(issuer.url, clock)
        for number in range(len(bodies)):
            assert await keys.key(kid), bodies[number][:10]
            clock.now += jwks.FRESH_SECONDS + 1
    assert len(issuer.received) == len(bodies)


async def test_a_key_set_is_fetched_once_a_minute(tenant: Emulation) -> None:
    """However often its keys are used, and again when it is older."""
    clock = Clock()
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", clock)
    kid = key_id(tenant)
    for _ in range(60):
        assert await keys.key(kid)
        clock.now += 1
    assert tenant.jwks_fetches() == 1
    clock.now += 1
    assert await keys.key(kid)
    assert tenant.jwks_fetches() == 2


async def test_an_issuer_that_refuses_or_drips_has_no_keys(
    tenant: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in an error's body are none; who waits for an answer that drips is told to come again."""
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.3)
    async with httpx.AsyncClient(trust_env=False) as client:
        good = (await client.get(f"{tenant.auth0_domain}/.well-known/jwks.json")).content
    ended = threading.Event()

    def drip(_: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        while not ended.wait(0.05):
            yield b" "

    with upstream() as issuer:
        for answer in (lambda _: http(500, good), lambda _: http(302, good, "Location: /"), drip):
            issuer.answer = answer
            with pytest.raises(TemporarilyUnavailable):
                await Jwks(issuer.url, Clock()).key(key_id(tenant))
        ended.set()


async def test_known_keys_wait_for_no_fetch(tenant: Emulation) -> None:
    """While a slow issuer is asked for a stranger's key, or anew, others are verified."""
    clock = Clock()
    kid = key_id(tenant)
    async with httpx.AsyncClient(trust_env=False) as client:
        good = (await client.get(f"{tenant.auth0_domain}/.well-known/jwks.json")).content
    go_on = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        if len(issuer.received) > 1:
            go_on.wait(WAIT_SECONDS)
        yield from http(200, good)

    with upstream() as issuer:
        issuer.answer = answer
        keys = Jwks(issuer.url, clock)
        assert await keys.key(kid)
        clock.now += jwks.FRESH_SECONDS + 1
        strangers = [asyncio.create_task(keys.key(f"unknown-{number}")) for number in range(3)]
        await until_async(lambda: len(issuer.received) == 2)
        assert await keys.key(kid)
        assert not any(stranger.done() for stranger in strangers)
        go_on.set()
        assert await asyncio.gather(*strangers) == [None] * 3
    assert len(issuer.received) == 2


async def test_the_first_callers_share_one_fetch(tenant: Emulation) -> None:
    """Who comes while the keys are fetched waits for them, and is not refused."""
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", Clock())
    kid = key_id(tenant)
    found = await asyncio.gather(*(keys.key(kid) for _ in range(20)))
    assert all(found)
    assert tenant.jwks_fetches() == 1


async def test_a_verified_token_is_believed_while_its_key_holds(
    tenant: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified once; after its end, or once its key has left the set, it is refused all the same."""
    clock, wall = Clock(), Clock(time.time())
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", clock)
    verifier = Verifier(keys, f"{tenant.auth0_domain}/", AUDIENCE, wall)
    token = tenant.issue_access_token({"exp": int(wall.now) + 60})
    other = tenant.issue_access_token({"exp": int(wall.now) + 600})
    first = await verifier.verify(token)
    await verifier.verify(other)

    def expired(*_: object, **__: object) -> None:
        raise jwt.ExpiredSignatureError

    monkeypatch.setattr(jwt, "decode", expired)
    assert await verifier.verify(token) is first
    wall.now += 60 + access_tokens.LEEWAY_SECONDS + 1
    with pytest.raises(ApiProblem, match="expired"):
        await verifier.verify(token)
    await verifier.verify(other)
    tenant.rotate_signing_keys(withdraw=True)
    clock.now += jwks.FRESH_SECONDS + 1
    with pytest.raises(ApiProblem, match="withdrawn"):
        await verifier.verify(other)


async def test_verified_tokens_are_bounded(tenant: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens there are, a bounded number is remembered, and each goes on being verified."""
    monkeypatch.setattr(access_tokens, "MAX_VERIFIED", 2)
    keys = Jwks(f"{tenant.auth0_domain}/.well-known/jwks.json", Clock())
    verifier = Verifier(keys, f"{tenant.auth0_domain}/", AUDIENCE)
    for number in range(5):
        await verifier.verify(tenant.issue_access_token({"sub": f"{number}@clients"}))
        assert len(verifier._verified) <= 2
