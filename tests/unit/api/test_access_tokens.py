"""Odd access tokens: what is believed of one that the issuer signed, and what is not."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pytest

from tests.support.served_api import AUDIENCE, Issuer
from worker.api.access_tokens import AccessToken, Verifier
from worker.api.jwks import Jwks, _read
from worker.api.problems import ApiProblem

ISSUER = Issuer()
ISSUER.url = "https://issuer.example/"
KEYS = _read(json.dumps(ISSUER.jwks).encode())
USER = "oauth2|u1"


async def verify(token: str, *client_ids: str) -> AccessToken:
    """Verify with the keys at hand: nothing is fetched."""
    jwks = Jwks("http://127.0.0.1:9/", lambda: 0.0, _keys=KEYS, _fetched_at=0.0, _tried_at=0.0)
    return await Verifier(jwks, ISSUER.url, AUDIENCE).verify(token, client_ids)


async def refusal(token: str, *client_ids: str) -> str:
    """The words in which a token is refused."""
    with pytest.raises(ApiProblem) as refused:
        await verify(token, *client_ids)
    assert refused.value.type.code == "invalid-token"
    return refused.value.detail


def after(seconds: float) -> timedelta:
    """A time to be told from when the token is signed: the suite may have loaded this file long before."""
    return timedelta(seconds=seconds)


def claims(**changed: Any) -> str:
    """A user's token; claims that are None are left out."""
    given: dict[str, Any] = {
        "iss": ISSUER.url, "aud": AUDIENCE, "sub": USER, "azp": "spa", "scope": "openid proxy:idp", "iat": after(0),
        "exp": after(3600), **changed,
    }  # fmt: skip
    now = int(time.time())
    return ISSUER.sign(
        {
            name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
            for name, value in given.items()
            if value is not None
        }
    )


def header(**members: Any) -> str:
    """A token whose header is not signed."""
    text = json.dumps(members).encode()
    return f"{urlsafe_b64encode(text).decode().rstrip('=')}.{claims().partition('.')[2]}"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"exp": [1]}, "cannot be read"),
        ({"exp": float("inf")}, "cannot be read"),
        ({"exp": float("nan")}, "cannot be read"),
        ({"exp": "soon"}, "cannot be read"),
        ({"exp": after(-40)}, "has expired"),
        ({"exp": 0}, "has expired"),
        ({"nbf": after(600)}, "not valid yet"),
        ({"nbf": float("inf")}, "cannot be read"),
        ({"iat": after(600)}, "not valid yet"),
        ({"sub": 7}, "cannot be read"),
        ({"sub": ""}, "cannot be read"),
        ({"aud": {AUDIENCE: 1}}, "cannot be read"),
        ({"aud": []}, "another audience"),
        ({"aud": [[AUDIENCE], {}, None]}, "another audience"),
        ({"aud": f"{AUDIENCE} other"}, "another audience"),
        ({"aud": f"{AUDIENCE}/"}, "another audience"),
        ({"iss": ISSUER.url.rstrip("/")}, "another issuer"),
        ({"iss": f"{ISSUER.url}other/"}, "another issuer"),
        ({"cnf": {"jkt": "x", "jwk": {}}}, "bound in a way"),
        ({"cnf": {"jkt": []}}, "bound in a way"),
    ],
)
async def test_a_claim_of_another_kind_is_refused(changed: dict[str, Any], words: str) -> None:
    """A signed token whose claims are not what they have to be is told so, and never a failure."""
    assert words in await refusal(claims(**changed))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (header(alg="RS256"), "does not name its key"),
        (header(alg="RS512", kid="k1"), "tokens are signed with RS256"),
        (header(alg="rs256", kid="k1"), "tokens are signed with RS256"),
        (header(alg="dir", enc="A256GCM", zip="DEF"), "tokens are signed with RS256"),
        (header(alg=["RS256"], kid="k1"), "not signed"),
        (header(alg="nOnE", kid="k1"), "not signed"),
        (header(alg="HS512", kid="k1"), "shared secret"),
        (header(alg="PS256", kid="k1"), "not one for the token's algorithm"),
        (header(alg="ES256", kid="k1"), "not one for the token's algorithm"),
        (header(alg="RS256", kid="k1", typ="JWT", x=1), "signature is wrong"),
        (ISSUER.sign({}, crit=["x"], x=1), "neither an access token"),
        (f"{'x' * 16_384}.", "too long"),
        (f"{'x' * 16_383}.", "neither an access token"),
        ("W10.e30.x", "neither an access token"),
    ],
)
async def test_a_header_of_another_kind_is_refused(token: str, words: str) -> None:
    """Whatever a token says of its own signature, the issuer's key decides."""
    assert words in await refusal(token)


async def test_clocks_may_differ_by_half_a_minute() -> None:
    """A token that has just ended, or just begins, is taken."""
    for times in ({"exp": after(-10)}, {"nbf": after(15), "iat": after(15)}):
        assert (await verify(claims(**times))).subject == USER


async def test_a_token_that_was_verified_is_known_by_its_signature_too() -> None:
    """What was remembered of it does not make a copy without the signature good."""
    jwks = Jwks("http://127.0.0.1:9/", lambda: 0.0, _keys=KEYS, _fetched_at=0.0, _tried_at=0.0)
    verifier, token = Verifier(jwks, ISSUER.url, AUDIENCE), claims()
    for _ in range(2):
        assert (await verifier.verify(token)).subject == USER
    with pytest.raises(ApiProblem, match="signature is wrong"):
        await verifier.verify(f"{token.rpartition('.')[0]}.{claims(jti='x').rpartition('.')[2]}")


async def test_scopes_and_permissions_count_together() -> None:
    """What is neither a text nor a list of texts gives no right."""
    token = claims(scope="a b", permissions=["c", 7, None])
    assert (await verify(token)).scopes == {"a", "b", "c"}
    for nothing in (
        {"scope": ["a"]},
        {"scope": ""},
        {"scope": None, "permissions": "a"},
        {"permissions": {"a": 1}},
    ):
        assert (await verify(claims(**{"scope": None, **nothing}))).scopes == frozenset()


@pytest.mark.parametrize(
    ("named", "client_id"),
    [
        ({"azp": "a", "client_id": "b"}, "a"),
        ({"azp": None, "client_id": "b"}, "b"),
        ({"azp": ["a"], "client_id": "b"}, "b"),
        ({"azp": 7, "client_id": ""}, None),
        ({"azp": None}, None),
    ],
)
async def test_the_application_is_a_text(named: dict[str, Any], client_id: str | None) -> None:
    """Of ``azp`` or ``client_id``, and never of what is none."""
    assert (await verify(claims(**named))).client_id == client_id


@pytest.mark.parametrize(
    ("named", "client_id"),
    [
        ({"sub": "app@clients", "azp": "app"}, "app"),
        ({"sub": "app@clients", "azp": None}, "app"),
        ({"sub": "x", "azp": "app", "gty": "client-credentials"}, "app"),
        ({"sub": "app@clients", "azp": "spa"}, None),
        ({"sub": "samlp|corp|eve@clients", "azp": None}, None),
        ({"sub": "samlp|corp|eve@clients", "azp": "eve"}, None),
        ({"sub": "@clients", "azp": None}, None),
        ({"sub": USER, "azp": None}, None),
        ({"sub": "app", "azp": "app", "gty": ["client-credentials"]}, None),
    ],
)
async def test_an_application_is_its_own_subject(named: dict[str, Any], client_id: str | None) -> None:
    """Or the issuer says that it was given its token for itself; everybody else is a user."""
    found = await verify(claims(**named))
    assert found.is_machine == (client_id is not None)
    assert client_id is None or found.client_id == client_id


async def test_a_known_application_among_audiences_makes_an_id_token() -> None:
    """Its audience is the client, whatever else is said to be one."""
    token = claims(aud=["other", "calendar-app"])
    assert (await refusal(token, "calendar-app")).startswith("this is an ID token")
    assert "another audience" in await refusal(token)
    assert "another audience" in await refusal(claims(aud=["other"], azp=None, scope=None, permissions=[]))
