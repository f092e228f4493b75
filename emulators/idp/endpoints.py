"""The providers' token endpoints, and an API behind them."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from emulators.clock import Clock
from emulators.idp import calendar, dialects
from emulators.idp.behaviour import PROVIDERS, Behaviour
from emulators.idp.grants import Issuer
from emulators.idp.tokens import AccessToken, Client, Grant, Refused, digest

Params = dict[str, str]
COMMON_TENANTS = ("common", "organizations", "consumers")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a request says who the client is.

    `method` is post, basic, none or missing.
    """

    method: str
    client_id: str
    secret: str


class Providers:
    """All providers, each below `/idp/<name>`."""

    def __init__(self, clock: Clock, issuer: Issuer, base_url: str) -> None:
        self._clock = clock
        self.issuer = issuer
        self._base_url = base_url
        self.behaviours: dict[str, Behaviour] = dict(PROVIDERS)
        self._patterns: dict[tuple[str, ...], list[re.Pattern[str]]] = {}

    async def handle(self, request: Request) -> Response:
        """Answer anything below `/idp/<name>/`."""
        entry = request.scope["entry"]
        name, rest = request.path_params["name"], "/" + request.path_params["rest"]
        behaviour = self.behaviours.get(name)
        if behaviour is None:
            return JSONResponse({"error": "no such provider"}, 404)
        for template, pattern in zip(behaviour.token_paths, self._compiled(behaviour), strict=True):
            if found := pattern.fullmatch(rest):
                entry["template"] = f"/idp/{name}{template}"
                if request.method != behaviour.method:
                    return JSONResponse({"error": "method not allowed"}, 405)
                return await self._token(request, name, behaviour, found.groupdict(), template)
        if rest == behaviour.revocation_path and request.method == "POST":
            return await self._revocation(request, name, behaviour)
        if rest == "/api/me":
            return self._me(request, name)
        if rest == "/.well-known/openid-configuration":
            return JSONResponse(self._discovery(name, behaviour))
        return JSONResponse({"error": "not found"}, 404)

    async def userinfo(self, request: Request) -> Response:
        """Answer `/idp/userinfo` with an access token's owner.

        It may be any provider's.
        """
        return self._me(request, None)

    async def _token(
        self, request: Request, name: str, behaviour: Behaviour, place: Params, template: str
    ) -> Response:
        entry, now = request.scope["entry"], self._clock.now()
        params = await _parameters(request, behaviour)
        credentials = _credentials(request.headers.get("authorization", ""), params)
        shown = params.get(behaviour.grant_type, "")
        entry |= {"client_id": credentials.client_id, "auth": credentials.method}
        if shown:
            entry["token"] = digest(shown)
            if behaviour.grant_type == "refresh_token" and (family := self.issuer.grant_of(shown)):
                entry["grant"] = family.id
        accept = request.headers.get("accept", "")
        encoded = behaviour.form_encoded and "json" not in accept
        planted = request.scope.get("planted_error")
        if planted is not None:
            status, body = dialects.planted_error(behaviour.dialect, planted, now)
            return _reply(status, body, entry, encoded)
        outcome = self._carry_out(name, behaviour, credentials, params, place)
        if isinstance(outcome, Refused):
            return _reply(*dialects.refusal(behaviour.dialect, outcome.kind, now), entry, encoded)
        grant, access = outcome
        access.audience = params.get("resource", "") or params.get("scope", "")
        entry["grant"] = grant.id
        body = dialects.answer(
            behaviour,
            grant,
            access,
            now,
            v1=behaviour.dialect == "entra" and template.endswith("oauth2/token"),
            resource=params.get("resource", ""),
            issuer=f"{self._base_url}/idp/{name}",
        )
        return _reply(200, body, None, encoded)

    def _carry_out(
        self, name: str, behaviour: Behaviour, credentials: Credentials, params: Params, place: Params
    ) -> Any:
        if (client := self._client(name, behaviour, credentials)) is None:
            known = (name, credentials.client_id) in self.issuer.clients
            return Refused("bad_client" if known else "unknown_client")
        if client.tenants and place.get("tenant", "common") not in (*client.tenants, *COMMON_TENANTS):
            return Refused("bad_tenant")
        if params.get("grant_type") != behaviour.grant_type:
            return Refused("bad_grant_type" if params.get("grant_type") else "bad_request")
        shown = params.get(behaviour.grant_type)
        if not shown or not all(params.get(required) for required in behaviour.required):
            return Refused("bad_request")
        if not _within(params.get("scope", ""), self.issuer.grant_of(shown)):
            return Refused("bad_scope")
        act = self.issuer.redeem if behaviour.grant_type == "refresh_token" else self.issuer.exchange
        return act(behaviour, name, client.client_id, shown)

    async def _revocation(self, request: Request, name: str, behaviour: Behaviour) -> Response:
        """Answer a revocation (RFC 7009).

        It is 200 also for a token that nobody knows.
        """
        entry, now = request.scope["entry"], self._clock.now()
        params = await _parameters(request, behaviour)
        credentials = _credentials(request.headers.get("authorization", ""), params)
        entry |= {"client_id": credentials.client_id, "auth": credentials.method}
        token = params.get("token", "")
        entry["token"] = digest(token) if token else None
        if planted := request.scope.get("planted_error"):
            return _reply(*dialects.planted_error(behaviour.dialect, planted, now), entry, False)
        if self._client(name, behaviour, credentials) is None:
            return _reply(*dialects.refusal(behaviour.dialect, "bad_client", now), entry, False)
        if not token:
            return _reply(*dialects.refusal(behaviour.dialect, "bad_request", now), entry, False)
        ended = self.issuer.revoke(name, credentials.client_id, token)
        if isinstance(ended, Refused):
            return _reply(*dialects.refusal(behaviour.dialect, ended.kind, now), entry, False)
        entry["grant"] = None if ended is None else ended.id
        return Response(status_code=200)

    def _client(self, name: str, behaviour: Behaviour, credentials: Credentials) -> Client | None:
        client = self.issuer.clients.get((name, credentials.client_id))
        if client is None or credentials.method not in behaviour.client_auth:
            return None
        return client if credentials.method == "none" or credentials.secret == client.secret else None

    async def calendar(self, request: Request) -> Response:
        """Answer with the calendar of an access token's owner."""
        found = self._caller(request, "google")
        if found is None:
            return _invalid_token()
        return JSONResponse(calendar.events(found[0], request.path_params["calendar"]))

    def _caller(self, request: Request, name: str | None) -> tuple[Grant, AccessToken] | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = self.issuer.find_access(token) if scheme.lower() == "bearer" else None
        if (
            found is None
            or (name is not None and found[0].provider != name)
            or not found[1].live(self._clock.now())
        ):
            return None
        request.scope["entry"]["grant"] = found[0].id
        return found

    def _me(self, request: Request, name: str | None) -> Response:
        if (found := self._caller(request, name)) is None:
            return _invalid_token()
        grant = found[0]
        connection, subject = grant.identity
        numeric = self.behaviours[grant.provider].integer_ids and subject.isdigit()
        return JSONResponse(
            {
                "sub": subject,
                "id": int(subject) if numeric else subject,
                "provider": grant.provider,
                "connection": connection,
                "scope": grant.scope,
                "audience": found[1].audience,
            }
        )

    def _discovery(self, name: str, behaviour: Behaviour) -> dict[str, Any]:
        issuer = f"{self._base_url}/idp/{name}"
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": issuer + behaviour.token_paths[0],
            "userinfo_endpoint": f"{issuer}/api/me",
            "token_endpoint_auth_methods_supported": [
                method if method == "none" else f"client_secret_{method}" for method in behaviour.client_auth
            ],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "id_token_signing_alg_values_supported": ["HS256"],
        }

    def _compiled(self, behaviour: Behaviour) -> list[re.Pattern[str]]:
        paths = behaviour.token_paths
        if paths not in self._patterns:
            self._patterns[paths] = [
                re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path.replace(".", r"\."))) for path in paths
            ]
        return self._patterns[paths]


def _invalid_token() -> Response:
    wrong = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return JSONResponse({"error": "invalid_token"}, 401, headers=wrong)


async def _parameters(request: Request, behaviour: Behaviour) -> Params:
    if request.method == "GET":
        return dict(request.query_params)
    body = await request.body()
    if "json" not in request.headers.get("content-type", ""):
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    if not behaviour.json_body:
        return {}  # most providers read forms only
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return {name: str(value) for name, value in parsed.items()} if isinstance(parsed, dict) else {}


def _credentials(header: str, params: Params) -> Credentials:
    scheme, _, value = header.partition(" ")
    posted = params.get("client_secret", "")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Credentials("missing", "", "")
        # RFC 6749 §2.3: not more than one way in one request; §2.3.1: both parts are form-encoded.
        method = "two at once" if posted else "basic"
        return Credentials(method, unquote_plus(client_id), unquote_plus(secret))
    client_id = params.get("client_id", "")
    if not client_id:
        return Credentials("missing", "", "")
    return Credentials("post" if posted else "none", client_id, posted)


def _within(wanted: str, grant: Grant | None) -> bool:
    if not wanted or grant is None:
        return True
    granted = {*grant.scope.split(), "openid", "profile", "email", "offline_access"}
    return all(scope in granted or scope.endswith("/.default") for scope in wanted.replace(",", " ").split())


def _reply(status: int, body: dict[str, Any], entry: dict[str, Any] | None, encoded: bool) -> Response:
    if entry is not None:  # an error, possibly with HTTP status 200
        error = body.get("error")
        entry["error"] = error if isinstance(error, str) else "error"
    dump: Callable[[dict[str, Any]], str] = urlencode if encoded else json.dumps
    kind = "application/x-www-form-urlencoded" if encoded else "application/json"
    return Response(dump(body), status, {"cache-control": "no-store", "pragma": "no-cache"}, media_type=kind)
