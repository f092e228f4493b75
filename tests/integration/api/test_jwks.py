"""The issuer's keys: fetched seldom, followed when they rotate, kept while the issuer is away."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx
import jwt
import pytest

from emulators.client import Emulation
from tests.support.api_server import AUDIENCE
from tests.support.scripted_upstream import http, upstream
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
