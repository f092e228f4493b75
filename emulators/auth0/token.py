"""`POST /oauth/token`: the machine-to-machine application gets a Management API token."""

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from emulators.auth0.errors import ApiError
from emulators.auth0.settings import Settings
from emulators.clock import Clock

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ManagementToken:
    """What a Management API token may do, and until when."""

    expires_at: float
    scopes: frozenset[str]


class Denied(Exception):
    """No token: HTTP status, error code and description."""

    def __init__(self, status: int, code: str, description: str) -> None:
        super().__init__(code)
        self.status, self.code, self.description = status, code, description


UNAUTHORIZED = (401, "access_denied", "Unauthorized")


class ManagementTokens:
    """Issues and recognises Management API tokens."""

    def __init__(
        self, clock: Clock, settings: Settings, base_url: str, *, client_id: str, client_secret: str
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._base_url = base_url
        self.audience = f"{base_url}/api/v2/"
        self.client_id = client_id
        self.client_secret = client_secret
        self._tokens: dict[str, ManagementToken] = {}
        self._seen_jti: set[str] = set()

    async def handle(self, request: Request) -> Response:
        """Answer the token request."""
        entry = request.scope["entry"]
        try:
            _suffer(request)
            params = await read_parameters(request)
            entry["client_id"] = params.get("client_id", "")
            entry["auth"] = self._authenticate(params)
            self._authorise(params)
        except Denied as no:
            entry["error"] = no.code
            return JSONResponse({"error": no.code, "error_description": no.description}, no.status)
        return JSONResponse(self._issue(), headers={"cache-control": "no-store"})

    def check(self, request: Request) -> ManagementToken:
        """Recognise the caller of the Management API. Raises ApiError (401)."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not value:
            raise ApiError(401, "Missing authentication")
        token = self._tokens.get(value)
        if token is None:
            raise ApiError(401, "Invalid token", "invalid_token")
        if token.expires_at <= self._clock.now():
            raise ApiError(401, "Expired token received for JSON Web Token validation", "invalid_token")
        return token

    def invalidate(self) -> None:
        """Let every token issued so far be expired."""
        self._tokens = {value: ManagementToken(0.0, token.scopes) for value, token in self._tokens.items()}

    def _issue(self) -> dict[str, Any]:
        life, scopes = self._settings.management_token_life, self._settings.scopes
        value = "mgmt_" + secrets.token_urlsafe(48)
        self._tokens[value] = ManagementToken(self._clock.now() + life, frozenset(scopes))
        answer = {"access_token": value, "token_type": "Bearer", "expires_in": round(life)}
        return {**answer, "scope": " ".join(scopes)} if scopes else answer

    def _authenticate(self, params: dict[str, str]) -> str:
        if assertion := params.get("client_assertion"):
            if params.get("client_assertion_type") != ASSERTION_TYPE or self._settings.public_key is None:
                raise Denied(*UNAUTHORIZED)
            self._check_assertion(assertion, self._settings.public_key)
            return "private_key_jwt"
        if self._settings.public_key is not None:  # an application has one way of authenticating
            raise Denied(*UNAUTHORIZED)
        if (params.get("client_id"), params.get("client_secret")) != (self.client_id, self.client_secret):
            raise Denied(*UNAUTHORIZED)
        return params["auth"]

    def _check_assertion(self, assertion: str, public_key: str) -> None:
        now = self._clock.now()
        try:  # the times are judged by the emulation's own clock, below
            claims = jwt.decode(
                assertion,
                public_key,
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
            good = (
                claims["iss"] == claims["sub"] == self.client_id
                and claims["aud"] == f"{self._base_url}/"
                and now < claims["exp"] <= now + 300 + 5
                and isinstance(claims["jti"], str)
                and claims["jti"] not in self._seen_jti
            )
        except (jwt.InvalidTokenError, KeyError, TypeError):
            raise Denied(*UNAUTHORIZED) from None
        if not good:
            raise Denied(*UNAUTHORIZED)
        self._seen_jti.add(claims["jti"])

    def _authorise(self, params: dict[str, str]) -> None:
        audience = params.get("audience", "")
        if params.get("grant_type") != "client_credentials":
            raise Denied(403, "unsupported_grant_type", f"Unsupported grant type: {params.get('grant_type')}")
        if not self._settings.client_credentials:
            text = "Grant type 'client_credentials' not allowed for the client."
            raise Denied(403, "unauthorized_client", text)
        if audience != self.audience:
            raise Denied(403, "access_denied", f"Service not found: {audience}")
        if not self._settings.client_grant:
            text = f'Client is not authorized to access "{audience}". You need to create a "client-grant".'
            raise Denied(403, "access_denied", text)


def _suffer(request: Request) -> None:
    if planted := request.scope.get("planted_error"):
        raise Denied(401 if planted[0] == "access_denied" else 403, *planted)


async def read_parameters(request: Request) -> dict[str, str]:
    """Read the JSON or form body.

    How the client authenticates is added as `auth`.
    """
    body = await request.body()
    if "json" in request.headers.get("content-type", ""):
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise Denied(400, "invalid_request", "Invalid body")
        params = {name: str(value) for name, value in parsed.items()}
    else:
        params = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    params["auth"] = "post"
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Denied(*UNAUTHORIZED) from None
        params |= {
            "client_id": unquote_plus(client_id),
            "client_secret": unquote_plus(secret),
            "auth": "basic",
        }
    return params
