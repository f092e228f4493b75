"""Users sign in to the operator's single-page applications.

The authorization code flow with PKCE. Source: RFC 6749, 4.1; RFC 7636; Auth0 documentation, "Authorization Code Flow
with PKCE", "Access Token Profiles" and "ID Token Structure".
"""

import base64
import hashlib
import hmac
import html
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from emulators import logins
from emulators.auth0.applications import Application
from emulators.auth0.signing_keys import LIFE
from emulators.auth0.token import read_parameters
from emulators.world import World

Json = dict[str, Any]

CODE_LIFE = 60.0  # seconds
# What applications may ask for: OpenID Connect's own, and what the operator's API has.
OPENID_SCOPES = {"openid", "profile", "email"}
USERS_SHOWN = 50

_PAGE = """<!doctype html><meta charset="utf-8"><title>Sign in</title><h1>Sign in</h1>
<form method="post">{buttons}</form>
"""


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """What an authorization code stands for."""

    client_id: str
    user_id: str
    redirect_uri: str
    challenge: str
    nonce: str | None
    scopes: list[str]
    audience: str | None
    expires_at: float


class NotAllowed(Exception):
    """Why an authorization request goes back to nobody."""


class SignIn:
    """`/authorize`, and the codes that it gives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._codes: dict[str, IssuedCode] = {}

    async def authorize(self, request: Request) -> Response:
        """Show who can sign in; once somebody is chosen, lead back with a code."""
        asked = request.query_params
        try:
            self._check(asked)
        except NotAllowed as why:
            return HTMLResponse(f"<!doctype html><title>Oops</title><p>{html.escape(str(why))}", 403)
        if asked.get("prompt") == "none":  # nobody has a session here
            return _back(asked, {"error": "login_required", "error_description": "Login required"})
        audience = asked.get("audience")
        if audience is not None and audience not in self._world.settings.apis:
            wrong = {"error": "access_denied", "error_description": f"Service not found: {audience}"}
            return _back(asked, wrong)
        if request.method != "POST":
            return HTMLResponse(_PAGE.format(buttons=self._buttons(asked.get("connection"))))
        user_id = dict(parse_qsl((await request.body()).decode())).get("user_id", "")
        if user_id not in self._world.users.ingest_by_id:
            return _back(asked, {"error": "access_denied", "error_description": "no such user"})
        logins.login(self._world, user_id, asked.get("connection"), consent=asked.get("prompt") == "consent")
        return _back(asked, {"code": self._issue_code(asked, user_id)})

    async def exchange(self, request: Request) -> Response | None:
        """Answer a token request with a code; None where it is another grant type."""
        cors = self._cors(request.headers.get("origin"))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=cors)
        params = await read_parameters(request)
        if params.get("grant_type") != "authorization_code":
            return None
        code = self._codes.pop(params.get("code", ""), None)
        if code is None or code.expires_at < self._world.clock.now():
            return _refused("Invalid authorization code", cors)
        if params.get("client_id") != code.client_id or params.get("redirect_uri") != code.redirect_uri:
            return _refused("The code was issued to another application or callback URL", cors)
        if not hmac.compare_digest(_challenge(params.get("code_verifier", "")), code.challenge):
            return _refused("Failed to verify code verifier", cors)
        return JSONResponse(self._tokens(code), headers={"cache-control": "no-store", **cors})

    def _check(self, asked: Mapping[str, str]) -> None:
        """Refuse what must not lead back to the application (RFC 6749, 4.1.2.1)."""
        application = self._world.applications.get(asked.get("client_id", ""))
        if application is None:
            raise NotAllowed("Unknown client")
        if asked.get("redirect_uri") not in application.callbacks:
            raise NotAllowed("Callback URL mismatch")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            raise NotAllowed("only the code flow with PKCE (S256) is emulated")

    def _buttons(self, connection: str | None) -> str:
        users = [
            user_id
            for user_id, user in self._world.users.ingest_by_id.items()
            if connection is None or any(each["connection"] == connection for each in user["identities"])
        ]
        return "\n".join(
            f'<p><button name="user_id" value="{html.escape(user)}">{html.escape(user)}</button>'
            for user in users[:USERS_SHOWN]
        )

    def _issue_code(self, asked: Mapping[str, str], user_id: str) -> str:
        audience = asked.get("audience")
        known = OPENID_SCOPES | set(self._world.settings.apis.get(audience or "", ()))
        code = secrets.token_urlsafe(32)
        self._codes[code] = IssuedCode(
            client_id=asked["client_id"],
            user_id=user_id,
            redirect_uri=asked["redirect_uri"],
            challenge=asked.get("code_challenge", ""),
            nonce=asked.get("nonce"),
            scopes=[scope for scope in asked.get("scope", "").split() if scope in known],
            audience=audience,
            expires_at=self._world.clock.now() + CODE_LIFE,
        )
        return code

    def _tokens(self, code: IssuedCode) -> Json:
        keys, userinfo = self._world.signing_keys, f"{self._world.base_url}/userinfo"
        user = self._world.users.ingest_by_id[code.user_id]
        shared: Json = {"sub": code.user_id, "gty": None}
        access: Json = {
            **shared,
            "aud": [code.audience, userinfo] if code.audience else userinfo,
            "azp": code.client_id,
            "scope": " ".join(code.scopes),
        }
        identity: Json = {
            **shared,
            "aud": code.client_id,
            "azp": None,
            "scope": None,
            "nonce": code.nonce,
            **{name: user.get(name) for name in ("name", "email", "email_verified")},
        }
        return {
            "access_token": keys.issue(access, "RS256", {}, None),
            "id_token": keys.issue(identity, "RS256", {}, None),
            "scope": access["scope"],
            "expires_in": LIFE,
            "token_type": "Bearer",
        }

    def _cors(self, origin: str | None) -> dict[str, str]:
        applications: list[Application] = list(self._world.applications.values())
        if origin is None or not any(origin in each.origins for each in applications):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-headers": "auth0-client, content-type",
            "access-control-allow-methods": "POST",
            "vary": "Origin",
        }


def _back(asked: Mapping[str, str], answer: dict[str, str]) -> Response:
    state = {"state": asked["state"]} if "state" in asked else {}
    return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({**answer, **state})}", 303)


def _refused(description: str, cors: dict[str, str]) -> Response:
    return JSONResponse({"error": "invalid_grant", "error_description": description}, 403, cors)


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
