"""The emulated tenant answers as Auth0's documentation says."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from emulators.auth0.query import MalformedQuery, parse
from emulators.client import Emulation, running

Json = dict[str, Any]
ALL = ["read:users", "read:user_idp_tokens", "read:connections", "read:connections_options"]


@pytest.fixture(scope="module")
def process() -> Iterator[Emulation]:
    with running() as emulation:
        yield emulation


@pytest.fixture
def tenant(process: Emulation) -> Emulation:
    process.reset()
    process.add_connection("google-oauth2", "google-oauth2", "google")
    process.add_connection("partner", "oauth2", "custom")
    return process


def token_request(tenant: Emulation, **changes: Any) -> httpx.Response:
    body = {
        "grant_type": "client_credentials",
        "client_id": tenant.client_id,
        "client_secret": tenant.client_secret,
        "audience": tenant.audience,
        **changes,
    }
    return tenant.http.post(f"{tenant.base_url}/oauth/token", json=body)


class Api:
    def __init__(self, tenant: Emulation) -> None:
        self.tenant = tenant
        self.headers = {"authorization": f"Bearer {token_request(tenant).json()['access_token']}"}

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.tenant.http.get(
            f"{self.tenant.base_url}/api/v2{path}", params=params, headers=self.headers
        )

    def user(self, user_id: str) -> Json:
        return dict(self.get(f"/users/{quote(user_id, safe='')}").json())


def test_the_answer_names_the_granted_scopes(tenant: Emulation) -> None:
    """A missing scope shows in the token answer's scope and nowhere else."""
    tenant.set_scopes(["read:users"])
    answer = token_request(tenant)
    assert answer.status_code == 200
    assert answer.json()["scope"] == "read:users"
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 86_400)


@pytest.mark.parametrize(
    ("settings", "changes", "status", "code", "text"),
    [
        ({}, {"client_secret": "wrong"}, 401, "access_denied", "Unauthorized"),
        (
            {},
            {"audience": "https://elsewhere/"},
            403,
            "access_denied",
            "Service not found: https://elsewhere/",
        ),
        ({"client_grant": False}, {}, 403, "access_denied", "Client is not authorized"),
        ({"client_credentials": False}, {}, 403, "unauthorized_client", "not allowed"),
    ],
)
def test_a_refused_token(
    tenant: Emulation, settings: Json, changes: Json, status: int, code: str, text: str
) -> None:
    """Each misconfiguration of the application has its own status, code and text."""
    tenant.configure_tenant(**settings)
    answer = token_request(tenant, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert text in answer.json()["error_description"]


def test_private_key_jwt_is_checked(tenant: Emulation) -> None:
    """An assertion is good once, for five minutes at most, from this client, for this issuer."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    tenant.set_client_public_key(public.decode())

    def ask(**changes: Any) -> int:
        me = tenant.client_id
        claims = {"iss": me, "sub": me, "aud": f"{tenant.base_url}/", "exp": int(time.time()) + 60, **changes}
        assertion = jwt.encode(claims, key, algorithm="RS256")
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        answer = token_request(
            tenant, client_secret="", client_assertion=assertion, client_assertion_type=kind
        )
        return answer.status_code

    assert ask(jti="once") == 200
    assert ask(jti="once") == 401
    assert ask(jti="long", exp=int(time.time()) + 900) == 401
    assert ask(jti="late", exp=int(time.time()) - 1) == 401
    assert ask(jti="other", aud=tenant.audience) == 401
    assert ask(jti="stranger", sub="somebody") == 401
    assert ask() == 401
    assert token_request(tenant).status_code == 401


def test_a_connection_shows_its_switches_at_the_top(tenant: Emulation) -> None:
    """Authentication and Connected Accounts are no options: they show without the scope for these."""
    tenant.add_connection("switched", "github", "github")
    shown = tenant.connection("switched")
    assert (shown["authentication"], shown["connected_accounts"]) == ({"active": True}, {"active": False})
    tenant.set_connection("switched", authentication={"active": False}, connected_accounts=None)
    tenant.set_scopes(["read:connections"])
    [listed] = Api(tenant).get("/connections", name="switched").json()
    assert listed["authentication"] == {"active": False}
    assert not {"connected_accounts", "options", "enabled_clients"} & set(listed)


def test_a_user_is_found_by_its_encoded_id(tenant: Emulation) -> None:
    """An id with a bar, a slash or a space is found when percent-encoded, and shows its tokens."""
    odd = "oauth2|partner|a/b c"
    tenant.add_user(odd, [{"connection": "partner"}])
    found = Api(tenant).user(odd)
    assert found["user_id"] == odd
    assert found["identities"][0]["user_id"] == "partner|a/b c"
    assert found["identities"][0]["access_token"] == tenant.live(odd, "partner")["access_token"]


def test_an_unknown_user(tenant: Emulation) -> None:
    """An unknown user is Auth0's 404."""
    answer = Api(tenant).get("/users/nobody")
    assert answer.json() == {
        "statusCode": 404,
        "error": "Not Found",
        "message": "The user does not exist.",
        "errorCode": "inexistent_user",
    }


def test_missing_scopes(tenant: Emulation) -> None:
    """Without read:users nothing is shown; without the token and option scopes parts are silently absent."""
    [user_id] = tenant.add_users("google-oauth2", 1)
    tenant.set_scopes(["read:users", "read:connections"])
    api = Api(tenant)
    identity = api.user(user_id)["identities"][0]
    assert identity["connection"] == "google-oauth2"
    assert not {"access_token", "refresh_token", "expires_in"} & set(identity)
    assert "refresh_token" not in str(api.get("/users").json())
    assert all("options" not in each for each in api.get("/connections").json())
    tenant.set_scopes(["read:connections"])
    refused = Api(tenant).get("/users")
    assert refused.status_code == 403
    assert refused.json()["errorCode"] == "insufficient_scope"
    assert refused.json()["message"] == "Insufficient scope, expected any of: read:users"


def test_management_tokens_end(tenant: Emulation) -> None:
    """An expired or invalidated management token gets 401 with Auth0's text."""
    tenant.configure_tenant(management_token_life=60)
    api = Api(tenant)
    assert api.get("/users").status_code == 200
    tenant.advance(61)
    assert api.get("/users").json()["message"].startswith("Expired token received")
    fresh = Api(tenant)
    tenant.invalidate_management_tokens()
    assert fresh.get("/users").status_code == 401


def test_paging_ends_at_the_window(tenant: Emulation) -> None:
    """Only the first 1,000 users can be paged to, unless the window is set otherwise."""
    tenant.add_users("google-oauth2", 1050)
    api = Api(tenant)
    last = api.get("/users", page=9, per_page=100, include_totals="true").json()
    assert (last["start"], last["limit"], last["length"], last["total"]) == (900, 100, 100, 1050)
    refused = api.get("/users", page=10, per_page=100)
    assert (refused.status_code, refused.json()["errorCode"]) == (400, "invalid_paging")
    tenant.set_window(None)
    assert len(api.get("/users", page=10, per_page=100).json()) == 50


@pytest.mark.parametrize(
    "params",
    [{"per_page": 101}, {"take": 50}, {"sort": "updated_at"}, {"q": "updated_at:[x TO *]"}, {"page": "one"}],
)
def test_wrong_parameters(tenant: Emulation, params: Json) -> None:
    """Parameters that Auth0's schema does not know get 400."""
    answer = Api(tenant).get("/users", **params)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "invalid_query_string")


def test_a_keyset_walk_sees_everyone_once(tenant: Emulation) -> None:
    """Walking by updated_at, page 0 each time, meets all users however small the window."""
    made = tenant.add_users("google-oauth2", 90)
    tenant.set_window(20)
    api, seen, since = Api(tenant), [], "2000-01-01T00:00:00.000Z"
    for _ in range(10):
        query = f"updated_at:{{{since} TO *]"
        page = api.get("/users", q=query, sort="updated_at:1", per_page=20, search_engine="v3").json()
        if not page:
            break
        seen += [user["user_id"] for user in page]
        since = page[-1]["updated_at"]
    assert seen == made


def test_search(tenant: Emulation) -> None:
    """The search combines connection, id lists and both kinds of range."""
    [first, second] = tenant.add_users("google-oauth2", 2)
    [other] = tenant.add_users("partner", 1)
    api = Api(tenant)

    def ids(query: str) -> list[str]:
        return [user["user_id"] for user in api.get("/users", q=query, sort="created_at:1").json()]

    at = tenant.user(first)["created_at"]
    assert ids('identities.connection:"partner"') == [other]
    assert ids(f'user_id:"{second}"') == [second]
    assert ids(f'user_id:("{first}" OR "{other}")') == [first, other]
    assert ids(f'created_at:[{at} TO {at}] AND identities.connection:"google-oauth2"') == [first]
    assert ids(f'created_at:{{{at} TO *] AND NOT identities.connection:"partner"') == [second]


def test_fields_are_top_level(tenant: Emulation) -> None:
    """`fields` keeps, or with include_fields=false drops, top-level fields."""
    [user_id] = tenant.add_users("google-oauth2", 1)
    api = Api(tenant)
    kept = api.get(f"/users/{quote(user_id)}", fields="user_id,identities", include_fields="true").json()
    assert set(kept) == {"user_id", "identities"}
    rest = api.get(f"/users/{quote(user_id)}", fields="user_id,identities", include_fields="false").json()
    assert not {"user_id", "identities"} & set(rest)


def test_connections_by_checkpoint(tenant: Emulation) -> None:
    """Checkpoint paging ends with an absent `next`, and strategies filter."""
    for number in range(5):
        tenant.add_connection(f"c{number}", "bitbucket", "bitbucket")
    api = Api(tenant)
    first = api.get("/connections", take=4, strategy="bitbucket").json()
    second = api.get("/connections", take=4, strategy="bitbucket", **{"from": first["next"]}).json()
    assert [each["name"] for each in first["connections"]] == ["c0", "c1", "c2", "c3"]
    assert [each["name"] for each in second["connections"]] == ["c4"]
    assert "next" not in second
    one = first["connections"][0]
    assert api.get(f"/connections/{one['id']}").json() == one
    assert one["options"]["client_secret"] == "secret-of-c0"


def test_admin_grants_in_options(tenant: Emulation) -> None:
    """A google-apps admin grant shows its expiry as a moment, and its token opens the provider."""
    options = tenant.add_connection("corp", "google-apps", "google", admin=True)["options"]
    assert options["admin_access_token_expiresin"].endswith("Z")
    assert options["admin_access_token"] == tenant.admin_live("corp")["access_token"]
    headers = {"authorization": f"Bearer {options['admin_access_token']}"}
    assert tenant.http.get(f"{tenant.base_url}/idp/google/api/me", headers=headers).status_code == 200
    tenant.revoke_admin("corp")
    assert tenant.http.get(f"{tenant.base_url}/idp/google/api/me", headers=headers).status_code == 401


def test_rate_limit(tenant: Emulation) -> None:
    """The bucket empties by calls and fills by the clock; headers are there from the start."""
    api = Api(tenant)
    assert "x-ratelimit-remaining" in api.get("/users").headers
    now = tenant.set_clock(tenant.now())
    tenant.set_rate_limit(2, 3)
    left = [api.get("/users").headers["x-ratelimit-remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    refused = api.get("/users")
    assert (refused.status_code, refused.json()["errorCode"]) == (429, "too_many_requests")
    assert refused.headers["retry-after"] == "1"
    assert now < int(refused.headers["x-ratelimit-reset"]) <= now + 2
    tenant.advance(0.5)
    assert [api.get("/users").status_code for _ in range(2)] == [200, 429]
    tenant.set_rate_limit(2, 0, retry_after_header=False)
    assert "retry-after" not in api.get("/users").headers


def test_identities_change_at_login_only(tenant: Emulation) -> None:
    """A renewal at the provider leaves Auth0's copy alone; a login changes it and the timestamps."""
    [user_id] = tenant.add_users("partner", 1)
    before = tenant.user(user_id)
    shown = tenant.live(user_id, "partner")["refresh_token"]
    client = {"client_id": "partner-client", "client_secret": "secret-of-partner"}
    form = {"grant_type": "refresh_token", "refresh_token": shown, **client}
    assert tenant.http.post(tenant.token_url("partner"), data=form).status_code == 200
    assert tenant.user(user_id) == before
    tenant.advance(5)
    tokens = tenant.login(user_id)
    after = tenant.user(user_id)
    assert after["identities"][0]["refresh_token"] == tokens["refresh_token"] != shown
    assert after["updated_at"] == after["last_login"] > before["last_login"]
    assert after["logins_count"] == 2


def test_google_without_consent(tenant: Emulation) -> None:
    """A Google login without consent shows no refresh token, and the old one goes on working."""
    [user_id] = tenant.add_users("google-oauth2", 1)
    old = tenant.live(user_id, "google-oauth2")
    tokens = tenant.login(user_id, consent=False)
    identity = tenant.user(user_id)["identities"][0]
    assert "refresh_token" not in identity
    assert identity["access_token"] == tokens["access_token"] != old["access_token"]
    assert tenant.live(user_id, "google-oauth2")["refresh_token"] == old["refresh_token"]


def test_linking(tenant: Emulation) -> None:
    """Linking moves the identity and its tokens; unlinking gives the user back."""
    [primary] = tenant.add_users("google-oauth2", 1)
    [secondary] = tenant.add_users("partner", 1)
    tokens = tenant.live(secondary, "partner")
    linked = tenant.link(primary, secondary)
    assert [each["connection"] for each in linked["identities"]] == ["google-oauth2", "partner"]
    assert "profileData" in linked["identities"][1]
    assert tenant.live(primary, "partner") == tokens
    assert Api(tenant).get(f"/users/{quote(secondary)}").status_code == 404
    assert tenant.unlink(primary, "partner")["user_id"] == secondary
    assert Api(tenant).user(secondary)["identities"][0]["access_token"] == tokens["access_token"]


def test_the_list_can_lag(tenant: Emulation) -> None:
    """A lagging list shows the user as before the last login while get-by-id is current."""
    [user_id] = tenant.add_users("partner", 1)
    old = tenant.live(user_id, "partner")["access_token"]
    tenant.advance(1)
    new = tenant.login(user_id)["access_token"]
    tenant.set_list_lag(user_id)
    api = Api(tenant)

    def listed() -> Any:
        return api.get("/users").json()[0]["identities"][0]["access_token"]

    assert (listed(), api.user(user_id)["identities"][0]["access_token"]) == (old, new)
    new = tenant.login(user_id)["access_token"]
    assert listed() == old
    tenant.set_list_lag(user_id, behind=False)
    assert listed() == new
    tenant.set_list_tokens(False)
    assert "access_token" not in api.get("/users").json()[0]["identities"][0]


def test_planted_fields(tenant: Emulation) -> None:
    """Any field of an identity can be planted, deleted or null."""
    [user_id] = tenant.add_users("google-oauth2", 1)
    fields: Json = {"expires_in": "soon", "refresh_token": None}
    tenant.set_identity(user_id, "google-oauth2", null=["access_token"], **fields)
    identity = Api(tenant).user(user_id)["identities"][0]
    assert (identity["expires_in"], identity["access_token"]) == ("soon", None)
    assert "refresh_token" not in identity


def test_github_ids_are_numbers(tenant: Emulation) -> None:
    """GitHub's user id inside an identity is an integer."""
    tenant.add_connection("github", "github", "github")
    [user_id] = tenant.add_users("github", 1)
    assert isinstance(tenant.user(user_id)["identities"][0]["user_id"], int)


@given(st.text() | st.text(alphabet='ab:.()[]{}" TOANDRNT*\\-1'))
def test_any_query_is_read_or_refused(text: str) -> None:
    """Whatever `q` holds, it is understood or malformed."""
    with suppress(MalformedQuery):
        parse(text).matches({"a": "2026-01-01", "b": [{"a": 1}]})
