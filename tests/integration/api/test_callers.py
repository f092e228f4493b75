"""Who may call: access tokens and API keys, each refusal in its own words."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from emulators.client import Emulation
from tests.support.api_server import ApiClient
from tests.support.readers import Rows, Sql
from worker.consumer_rules import make_api_key

PATH = "/v1/users/oauth2%7Cu1/tokens/custom"
NOW = int(time.time())

ID_TOKEN = {"aud": "calendar-app", "azp": None, "scope": None, "gty": None, "sub": "oauth2|u1", "nonce": "n"}
BAD_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": NOW - 3600}, "the token has expired"),
    "no end": ({"exp": None}, "the token has no exp"),
    "not yet": ({"nbf": NOW + 3600}, "the token is not valid yet"),
    "another issuer": ({"iss": "https://evil.example/"}, "the token is of another issuer"),
    "another audience": ({"aud": "https://other.example"}, "the token is for another audience than this API"),
    "an audience of no words": ({"aud": [["https://vault.example"]]}, "the token is for another audience"),
    "no audience": ({"aud": None}, "the token has no aud"),
    "no subject": ({"sub": None}, "the token has no sub"),
    "an ID token": (ID_TOKEN, "this is an ID token"),
    "an ID token without a nonce": ({**ID_TOKEN, "nonce": None}, "this is an ID token"),
    "an ID token of an unknown client": ({**ID_TOKEN, "aud": "spa", "nonce": None}, "this is an ID token"),
    "an ID token for this audience": ({"at_hash": "x"}, "this is an ID token"),
    "bound to a key": (
        {"cnf": {"jkt": "x"}},
        "this token is bound to a key (DPoP), whose proofs name this API's URL",
    ),
    "bound to a certificate": (
        {"cnf": {"x5t#S256": "x"}},
        "this token is bound to a TLS client certificate (mTLS)",
    ),
    "bound to both": (
        {"cnf": {"x5t#S256": "x", "jkt": "x"}},
        "this token is bound to a TLS client certificate",
    ),
    "bound in another way": (
        {"cnf": {"jwk": {}}},
        "this token is bound in a way that this API does not verify",
    ),
    "bound to nothing": ({"cnf": {}}, "this token is bound in a way that this API does not verify"),
    "bound by a word": ({"cnf": "x"}, "the token cannot be read"),
}


async def test_machines_read_with_each_algorithm(api: ApiClient, tenant: Emulation, rows: Rows) -> None:
    """RS256, PS256 and ES256 are verified by the issuer's key set, which is fetched once."""
    await rows.add()
    for algorithm in ("RS256", "PS256", "ES256"):
        response = api.call(PATH, tenant.issue_access_token(algorithm=algorithm))
        assert (response.status_code, response.json().get("access_token")) == (200, "token-of-u1")
    assert tenant.jwks_fetches() == 1


@pytest.mark.usefixtures("rows")
def test_bad_tokens_are_refused_in_their_own_words(api: ApiClient, tenant: Emulation) -> None:
    """What is wrong with a token is told, as status 401 with a challenge."""
    for name, (claims, words) in BAD_CLAIMS.items():
        status, code, detail = api.problem(PATH, tenant.issue_access_token(claims))
        assert (status, code) == (401, "invalid-token"), name
        assert detail.startswith(words), name
    tricks = {"none": "the token is not signed", "HS256": "HS256 is signed with a shared secret",
              "foreign": "the token's signature is wrong"}  # fmt: skip
    for trick, words in tricks.items():
        assert api.problem(PATH, tenant.issue_access_token(trick=trick))[2].startswith(words)
    unknown = tenant.issue_access_token(
        header={"kid": "x", **dict.fromkeys(("jku", "x5u"), f"{api.url}/evil.json")}
    )
    assert api.problem(PATH, unknown)[2].startswith("the issuer has no key of this token's id")
    critical = tenant.issue_access_token(header={"crit": ["unknown"], "unknown": 1})
    assert api.problem(PATH, critical)[:2] == (401, "invalid-token")
    mixed = tenant.issue_access_token(header={"kid": "ec-0"})
    assert api.problem(PATH, mixed)[2] == "the key of this id is not one for the token's algorithm"
    for garbage in (b"x", b"a.b.c", b"tvk_x.y.z", b"\xe9", b"a.b.c d"):
        sent = {"Authorization": b"Bearer " + garbage}
        assert api.problem(PATH, headers=sent)[:2] == (401, "invalid-token")
    # Two readers of such a request could believe one each.
    twice = [("Authorization", f"Bearer {tenant.issue_access_token()}")] * 2
    assert httpx.get(f"{api.url}{PATH}", headers=twice, trust_env=False).status_code == 401
    assert api.call(PATH).headers["www-authenticate"] == 'Bearer realm="token-vault"'
    assert 'error="invalid_token"' in api.call(PATH, "x").headers["www-authenticate"]


async def test_rotated_keys_are_followed(api: ApiClient, tenant: Emulation, rows: Rows) -> None:
    """Unknown key ids lead to a few fetches a minute, however many tokens name them."""
    await rows.add()
    assert api.call(PATH, tenant.issue_access_token()).status_code == 200
    for _ in range(20):
        api.call(PATH, tenant.issue_access_token(header={"kid": "unknown"}))
    assert tenant.jwks_fetches() == 1


@pytest.mark.usefixtures("rows")
def test_rights_are_refused_in_their_own_words(api: ApiClient, tenant: Emulation) -> None:
    """A good token without the scope, the entry or the connection is told what it lacks."""
    refused = {
        "the token has no scope read:idp_tokens": tenant.issue_access_token({"scope": "openid"}),
        "no entry in [consumers.*]": tenant.issue_access_token({"azp": "other", "sub": "other@clients"}),
        "a user's token reads no token": tenant.issue_access_token({"sub": "oauth2|u1", "gty": None}),
    }
    for words, token in refused.items():
        status, code, detail = api.problem(PATH, token)
        assert (status, code) == (403, "not-allowed")
        assert detail.startswith(words)
    good = tenant.issue_access_token()
    for path in ("/v1/users/oauth2%7Cu1/tokens/other", "/v1/connections/custom/token"):
        assert "[consumers.calendar] does not allow" in api.problem(path, good)[2]
    for lacks, has in (("refresh:idp_tokens", "read:idp_tokens"), ("read:idp_tokens", "refresh:idp_tokens")):
        token = tenant.issue_access_token({"scope": has})
        assert api.problem(f"{PATH}/refresh", token, method="POST")[2] == f"the token has no scope {lacks}"


@pytest.mark.usefixtures("rows")
def test_a_user_is_no_application_whatever_its_id(api: ApiClient, tenant: Emulation) -> None:
    """An id that ends as an application's does, in a token of a consumer's own front end, reads nothing."""
    for subject in ("samlp|corp|eve@clients", "eve@clients", "@clients"):
        user = tenant.issue_access_token({"sub": subject, "gty": None})
        assert api.problem(PATH, user)[2].startswith("a user's token reads no token"), subject
    itself = tenant.issue_access_token({"sub": "calendar-app@clients", "gty": None, "azp": None})
    assert api.problem(PATH, itself)[:2] == (404, "not-connected")


async def test_api_keys(api: ApiClient, api_key: str, rows: Rows, sql: Sql) -> None:
    """A key reads what its consumer may; another key, and one whose consumer is removed, nothing."""
    await rows.add()
    assert api.call(PATH, api_key).json()["access_token"] == "token-of-u1"
    assert api.problem(PATH, make_api_key())[:2] == (401, "invalid-token")
    assert api.problem(f"{PATH}/refresh", api_key, method="POST")[1] == "not-allowed"
