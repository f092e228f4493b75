"""The emulated providers renew tokens as their documentation says."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from emulators.client import Emulation, digest, running

Json = dict[str, Any]
STRATEGIES = {
    "google": "google-oauth2",
    "entra": "waad",
    "bitbucket": "bitbucket",
    "github": "github",
    "facebook": "facebook",
    "okta": "okta",
    "gitlab": "oauth2",
    "custom": "oauth2",
    "oidc": "oidc",
    "slack": "oauth2",
}
BASIC = {"bitbucket", "okta", "slack"}


@pytest.fixture(scope="module")
def process() -> Iterator[Emulation]:
    with running() as emulation:
        yield emulation


@pytest.fixture
def world(process: Emulation) -> Emulation:
    process.reset()
    return process


class Person:
    """One user of one provider, and a client that can renew for it."""

    def __init__(self, world: Emulation, provider: str, **options: Any) -> None:
        self.world, self.provider = world, provider
        world.add_connection("c", STRATEGIES[provider], provider, **options)
        [self.user_id] = world.add_users("c", 1)
        self.url = world.token_url("c")
        self.client = ("c-client", "secret-of-c")

    @property
    def tokens(self) -> dict[str, str | None]:
        return self.world.live(self.user_id, "c")

    def renew(self, token: str | None = None, auth: str = "", **extra: Any) -> httpx.Response:
        form: Json = {
            "grant_type": "refresh_token",
            "refresh_token": token or self.tokens["refresh_token"],
            **extra,
        }
        if (auth or ("basic" if self.provider in BASIC else "post")) == "basic":
            return self.world.http.post(self.url, data=form, auth=self.client)
        posted = {"client_id": self.client[0], "client_secret": self.client[1]}
        return self.world.http.post(self.url, data={**form, **posted})

    def accepted(self, access_token: str | None) -> bool:
        headers = {"authorization": f"Bearer {access_token}"}
        answers = [
            self.world.http.get(f"{self.world.base_url}/idp/{path}", headers=headers).status_code
            for path in (f"{self.provider}/api/me", "userinfo")
        ]
        assert answers[0] == answers[1]
        return answers[0] == 200


def test_google_keeps_its_refresh_token(world: Emulation) -> None:
    """Google answers without a refresh token and the old one works again and again."""
    person = Person(world, "google")
    old = person.tokens
    for _ in range(2):
        answer = person.renew(old["refresh_token"]).json()
        assert answer["access_token"].startswith("ya29.")
        assert answer["expires_in"] == 3599
        assert "refresh_token" not in answer
    assert person.tokens["refresh_token"] == old["refresh_token"]
    assert person.accepted(old["access_token"])
    assert world.double_spends() == 0


def test_rotation_spends_the_old_token(world: Emulation) -> None:
    """A rotating provider without grace refuses a refresh token that was spent, and says so in the ledger."""
    person = Person(world, "bitbucket")
    old = str(person.tokens["refresh_token"])
    new = person.renew().json()["refresh_token"]
    refused = person.renew(old)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    first, second = world.ledger(person.user_id, "c")
    assert (first["refresh"], first["spent"], first["live"], first["presented"]) == (
        digest(old),
        True,
        False,
        2,
    )
    assert (second["refresh"], second["spent"], second["live"], second["presented"]) == (
        digest(new),
        False,
        True,
        0,
    )
    assert world.double_spends() == 1


@pytest.mark.parametrize(
    ("provider", "auth", "code"),
    [
        ("bitbucket", "post", "invalid_client"),
        ("google", "basic", "invalid_client"),
        ("okta", "post", None),
        ("okta", "basic", None),
    ],
)
def test_client_authentication(world: Emulation, provider: str, auth: str, code: str | None) -> None:
    """A client that authenticates in a way the provider does not take is invalid_client, nothing spent."""
    person = Person(world, provider)
    answer = person.renew(auth=auth)
    assert answer.json().get("error") == code
    assert world.ledger(person.user_id, "c")[0]["presented"] == (code is None)


@pytest.mark.parametrize(
    ("provider", "status", "code"),
    [
        ("google", 401, "invalid_client"),
        ("github", 200, "incorrect_client_credentials"),
        ("slack", 200, "bad_client_secret"),
        ("entra", 401, "invalid_client"),
    ],
)
def test_a_wrong_secret(world: Emulation, provider: str, status: int, code: str) -> None:
    """A secret that was changed at the provider is refused in the provider's own words."""
    person = Person(world, provider)
    world.set_client_secret(provider, "c", "another")
    answer = httpx_json(person.renew())
    assert (answer[0], answer[1]["error"]) == (status, code)


def httpx_json(answer: httpx.Response) -> tuple[int, Json]:
    if "form" in answer.headers["content-type"]:
        return answer.status_code, {name: values[0] for name, values in parse_qs(answer.text).items()}
    return answer.status_code, answer.json()


def test_grace_with_a_new_pair(world: Emulation) -> None:
    """Within the leeway a spent token gets another pair; after it the family dies, new tokens included."""
    person = Person(world, "okta")
    world.set_clock(world.now())
    old = person.tokens["refresh_token"]
    first = person.renew(old).json()
    world.advance(29)
    second = person.renew(old).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert person.accepted(second["access_token"])
    world.advance(1)
    assert person.renew(old).json()["error"] == "invalid_grant"
    assert not person.accepted(second["access_token"])
    assert person.renew(second["refresh_token"]).status_code == 400
    assert person.tokens == {"access_token": None, "refresh_token": None}


def test_grace_with_the_same_pair(world: Emulation) -> None:
    """With the answer policy "same" a retry gets the pair again, until that pair's token is used."""
    world.configure_provider("custom", grace=60, grace_answer="same")
    person = Person(world, "custom")
    old = person.tokens["refresh_token"]
    first = person.renew(old).json()
    again = person.renew(old).json()
    assert (again["access_token"], again["refresh_token"]) == (first["access_token"], first["refresh_token"])
    assert person.renew(first["refresh_token"]).status_code == 200
    assert person.renew(old).status_code == 400


def test_github_answers(world: Emulation) -> None:
    """GitHub rotates, ends the old access token, answers in a form unless asked for JSON, errs with 200."""
    person = Person(world, "github")
    old = person.tokens
    status, answer = httpx_json(person.renew())
    assert status == 200
    assert (answer["expires_in"], answer["refresh_token_expires_in"]) == ("28800", "15811200")
    assert not person.accepted(old["access_token"])
    assert person.accepted(answer["access_token"])
    form = {"grant_type": "refresh_token", "refresh_token": old["refresh_token"]}
    client = {"client_id": "c-client", "client_secret": "secret-of-c"}
    refused = world.http.post(person.url, data={**form, **client}, headers={"accept": "application/json"})
    assert (refused.status_code, refused.json()["error"]) == (200, "bad_refresh_token")


def test_entra_versions(world: Emulation) -> None:
    """Entra keeps the old refresh token alive; v1 writes numbers as strings; a foreign tenant is refused."""
    person = Person(world, "entra")
    old = person.tokens["refresh_token"]
    answer = person.renew(old).json()
    assert answer["refresh_token"] != old
    assert (answer["expires_in"], answer["ext_expires_in"]) == (3599, 3599)
    assert person.renew(old).status_code == 200
    assert world.double_spends() == 0
    world.set_connection_options("c", identity_api="azure-active-directory-v1.0")
    person.url = world.token_url("c")
    assert person.url.endswith("/oauth2/token")
    assert person.renew(resource="https://graph.example").json()["expires_in"] == "3599"
    person.url = f"{world.base_url}/idp/entra/another-tenant/oauth2/v2.0/token"
    assert person.renew().json()["error_codes"] == [90002]


def test_entra_errors(world: Emulation) -> None:
    """A grant revoked at Entra is invalid_grant with a number, a suberror and the AADSTS text."""
    person = Person(world, "entra")
    old = person.tokens["refresh_token"]
    assert world.revoke(person.user_id, "c") == 1
    answer = person.renew(old)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["error"], body["error_codes"], body["suberror"]) == ("invalid_grant", [50173], "bad_token")
    assert body["error_description"].startswith("AADSTS50173")


def test_facebook_exchanges_the_access_token(world: Emulation) -> None:
    """Facebook swaps a live access token by GET, and errs with an object once it has expired."""
    person = Person(world, "facebook")
    current = person.tokens["access_token"]
    params: Json = {
        "grant_type": "fb_exchange_token",
        "fb_exchange_token": current,
        "client_id": "c-client",
        "client_secret": "secret-of-c",
    }
    answer = world.http.get(person.url, params=params).json()
    assert answer["expires_in"] == 60 * 86_400
    assert "refresh_token" not in answer
    assert person.accepted(current)
    assert world.http.post(person.url, data=params).status_code == 405
    world.advance(61 * 86_400)
    error = world.http.get(person.url, params=params).json()["error"]
    assert (error["type"], error["code"], error["error_subcode"]) == ("OAuthException", 190, 463)


def test_gitlab_wants_the_redirect_uri(world: Emulation) -> None:
    """GitLab refuses a renewal without redirect_uri and spends nothing."""
    person = Person(world, "gitlab")
    assert person.renew().json()["error"] == "invalid_request"
    answer = person.renew(redirect_uri="https://tenant.example/login/callback").json()
    assert answer["created_at"] > 0
    assert answer["refresh_token"] == person.tokens["refresh_token"]


def test_slack_nests_the_tokens(world: Emulation) -> None:
    """Slack's user tokens are under authed_user."""
    answer = Person(world, "slack").renew().json()
    assert answer["ok"] is True
    assert answer["authed_user"]["access_token"].startswith("xoxe.xoxp-")


def test_oidc_is_discovered(world: Emulation) -> None:
    """An oidc connection's options and its discovery document lead to the same endpoint; id_tokens come."""
    person = Person(world, "oidc")
    options = world.connection("c")["options"]
    discovered = world.http.get(options["discovery_url"]).json()
    assert discovered["token_endpoint"] == options["oidc_metadata"]["token_endpoint"] == person.url
    assert person.renew().json()["id_token"].count(".") == 2


def test_composed_behaviour(world: Emulation) -> None:
    """A provider can be composed from fields, under a name of its own."""
    world.configure_provider(
        "bank",
        like="custom",
        rotates=False,
        refresh_in_answer=True,
        numbers_as_strings=True,
        scope_field="scopes",
    )
    STRATEGIES["bank"] = "oauth2"
    person = Person(world, "bank")
    answer = person.renew().json()
    assert answer["refresh_token"] == person.tokens["refresh_token"]
    assert (answer["expires_in"], answer["scopes"]) == ("3600", "profile email")


def test_scope_stays_within_the_grant(world: Emulation) -> None:
    """A renewal may narrow the scope and not widen it."""
    person = Person(world, "google")
    assert person.renew(scope="openid").status_code == 200
    assert person.renew(scope="https://www.googleapis.com/auth/drive").json()["error"] == "invalid_scope"


def test_another_client_cannot_use_the_token(world: Emulation) -> None:
    """A refresh token is bound to the client it was issued to."""
    person = Person(world, "custom")
    world.add_connection("d", "oauth2", "custom")
    person.client = ("d-client", "secret-of-d")
    assert person.renew().json()["error"] == "invalid_grant"


def test_tokens_expire_by_the_clock(world: Emulation) -> None:
    """Access tokens end by the emulated clock, and refresh tokens when they lie unused too long."""
    person = Person(world, "google")
    now, tokens = world.set_clock(world.now()), person.tokens
    assert person.accepted(tokens["access_token"])
    world.advance(3599)
    assert not person.accepted(tokens["access_token"])
    holder = world.holder(str(tokens["access_token"]))
    assert holder is not None
    assert (holder["connection"], holder["live"]) == ("c", False)
    assert world.now() == now + 3599
    world.advance(184 * 86_400)
    assert person.renew(tokens["refresh_token"]).json()["error"] == "invalid_grant"


def test_development_keys(world: Emulation) -> None:
    """A connection on Auth0's development keys shows blanks, and its tokens work without being renewable."""
    person = Person(world, "google", client_id="", client_secret="")
    options = world.connection("c")["options"]
    assert (options["client_id"], options["client_secret"]) == ("", "")
    assert person.accepted(person.tokens["access_token"])
    person.client = ("", "")
    assert person.renew().json()["error"] == "invalid_client"


def test_token_canary(world: Emulation) -> None:
    """The call log names what was presented by its digest and never shows a token."""
    person = Person(world, "custom")
    shown = str(person.tokens["refresh_token"])
    person.renew()
    [call] = world.call_log("/idp/custom/oauth")
    assert (call["token"], call["client_id"], call["auth"]) == (digest(shown), "c-client", "post")
    assert call["outcome"] == "200"
    assert shown not in str(call)
    assert world.calls("/idp/custom") == {"POST /idp/custom/oauth/token": 1}
