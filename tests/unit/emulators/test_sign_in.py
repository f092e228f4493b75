"""The emulated tenant's code flow, as a single-page app uses it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt

from emulators.client import Emulation

CALLBACK, ORIGIN = "http://127.0.0.1:3000", "http://127.0.0.1:3000"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASKED = {
    "response_type": "code", "client_id": "spa", "redirect_uri": CALLBACK, "state": "s", "nonce": "n",
    "scope": "openid proxy:idp delete:everything", "audience": "https://vault.example",
    "code_challenge": CHALLENGE, "code_challenge_method": "S256",
}  # fmt: skip


def users(tenant: Emulation) -> list[str]:
    """Add an application and two users."""
    tenant.add_connection("google-oauth2", "google-oauth2", "google")
    tenant.add_application("spa", callbacks=[CALLBACK], origins=[ORIGIN])
    return tenant.add_users("google-oauth2", 2)


def choose(tenant: Emulation, user_id: str, **changed: str) -> dict[str, str]:
    """Sign in; gives what comes back to the application."""
    answer = tenant.http.post("/authorize", params=ASKED | changed, data={"user_id": user_id})
    assert answer.headers["location"].startswith(f"{CALLBACK}?")
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def exchange(tenant: Emulation, code: str, **changed: str) -> httpx.Response:
    """Ask for tokens."""
    form = {
        "grant_type": "authorization_code", "client_id": "spa", "redirect_uri": CALLBACK, "code": code,
        "code_verifier": VERIFIER,
    }  # fmt: skip
    return tenant.http.post("/oauth/token", data=form | changed, headers={"Origin": ORIGIN})


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def test_a_user_signs_in(tenant: Emulation) -> None:
    """The page offers the users; the chosen one's tokens name user, application, API and granted scopes."""
    first, second = users(tenant)
    shown = tenant.http.get("/authorize", params=ASKED).text
    assert first in shown
    assert second in shown
    back = choose(tenant, second)
    assert back["state"] == "s"
    answer = exchange(tenant, back["code"])
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    access, identity = (claims(answer.json()[name]) for name in ("access_token", "id_token"))
    assert (access["sub"], access["azp"], access["scope"]) == (second, "spa", "openid proxy:idp")
    assert access["aud"][0] == "https://vault.example"
    assert (identity["sub"], identity["aud"], identity["nonce"]) == (second, "spa", "n")


def test_what_is_wrong_gets_no_token(tenant: Emulation) -> None:
    """A code is good once, for its application, its callback and the holder of the verifier."""
    user, _ = users(tenant)
    for changed in (
        {"code_verifier": "w" * 43},
        {"client_id": "other"},
        {"redirect_uri": "http://evil.example"},
    ):
        code = choose(tenant, user)["code"]
        assert exchange(tenant, code, **changed).json()["error"] == "invalid_grant"
        assert exchange(tenant, code).status_code == 403
    late = choose(tenant, user)["code"]
    tenant.advance(61)
    assert exchange(tenant, late).status_code == 403
    assert choose(tenant, user, prompt="none")["error"] == "login_required"
    assert choose(tenant, user, audience="https://other.example")["error"] == "access_denied"
    for changed in (
        {"client_id": "other"},
        {"redirect_uri": "http://evil.example"},
        {"code_challenge_method": "plain"},
    ):
        answer = tenant.http.post("/authorize", params=ASKED | changed, data={"user_id": user})
        assert (answer.status_code, answer.headers.get("location")) == (403, None)


def test_only_the_applications_origins_may_ask_from_a_browser(tenant: Emulation) -> None:
    """A preflight from another origin gets no leave."""
    users(tenant)
    for origin, allowed in ((ORIGIN, ORIGIN), ("http://evil.example", None)):
        answer = tenant.http.options("/oauth/token", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed
