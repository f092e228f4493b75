"""The description of the API (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from worker import __version__
from worker.api.callers import USER_HEADER
from worker.api.parameters import ACCOUNT_HEADER, MAX_MIN_TTL_SECONDS, MAX_NAME_LENGTH, MAX_WAIT_SECONDS
from worker.api.problems import MEDIA_TYPE, PROBLEM_TYPES
from worker.api.schemas import schemas
from worker.proxy_rules import METHODS

Json = dict[str, Any]

# A name with a slash or a line break in it leads to another route, or to none.
_NAME_PROBLEMS = ("bad-request", "invalid-token", "not-allowed", "not-found", "method-not-allowed", "internal-error",
                  "temporarily-unavailable")  # fmt: skip
_READ_PROBLEMS = (*_NAME_PROBLEMS, "not-connected", "consent-needed", "token-expired", "ambiguous-account")
_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}


async def openapi(request: Request) -> Response:
    """Answer with the description."""
    del request
    return JSONResponse(describe())


def describe() -> Json:
    """Return the description of all routes."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Token vault",
            "version": __version__,
            "description": "Fresh OAuth tokens of identity providers, for services in any language.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"accessToken": []}, {"apiKey": []}],
        "paths": {
            **_token_paths("/v1/users/{user_id}/tokens/{connection}", "UserToken", ["user_id", "connection"]),
            **_token_paths("/v1/connections/{connection}/token", "AdminToken", ["connection"]),
            "/v1/users/{user_id}/tokens": {"get": _list_operation()},
            "/v1/users/{user_id}/reconnect/{connection}": {"get": _reconnect_operation()},
            "/healthz": {"get": _open_operation("health", "Whether the process answers.", ())},
            "/readyz": {
                "get": _open_operation(
                    "readiness",
                    "Whether database, keys and migrations are in order.",
                    ("temporarily-unavailable",),
                )
            },
            "/metrics": {
                "get": _open_operation("metrics", "Metrics for Prometheus.", (), media="text/plain")
            },
            "/openapi.json": {"get": _open_operation("openapi", "This description.", ())},
            "/v1/proxy/{connection}/{path}": {
                each.lower(): _proxy_operation(each) for each in sorted(METHODS)
            },
            "/v1/hooks/auth0": {"post": _auth0_hook_operation()},
            "/v1/hooks/events/{name}": {"post": _security_events_operation()},
        },
        "components": {
            "securitySchemes": {
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token with this API's audience: a machine application's with the scope "
                    "read:idp_tokens, or a user's with proxy:idp for the proxy.",
                },
                "apiKey": {"type": "http", "scheme": "bearer", "description": "A consumer's API key."},
                "hookSecret": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "The hook's secret: as it is, as a bearer token, or as a password.",
                },
            },
            "schemas": schemas(),
            "responses": {each: _problem_response(each) for each in PROBLEM_TYPES},
        },
    }


def _token_paths(path: str, name: str, places: Sequence[str]) -> Json:
    parameters = [*(_path_parameter(each) for each in places), *_query_parameters(admin=len(places) == 1)]
    token = _ok("A fresh token.", {"$ref": "#/components/schemas/Token"})
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Rejected"}}},
    }
    return {
        path: {"get": _operation(f"get{name}", "Read a fresh token.", parameters, {"200": token}, _READ_PROBLEMS)},
        f"{path}/refresh": {
            "post": _operation(
                f"refresh{name}", "Have the token replaced, and read the new one.", parameters, {"200": token},
                _READ_PROBLEMS,
            )
        },
        f"{path}/rejected": {
            "post": _operation(
                f"reject{name}", "Report a token that an API refused.", parameters,
                {"202": _ok("Taken.", {"$ref": "#/components/schemas/Replacing"})},
                (*_READ_PROBLEMS, "request-timeout", "too-large"), requestBody=body,
            )
        },
    }  # fmt: skip


def _list_operation() -> Json:
    listed = _ok("The grants, without tokens.", {"$ref": "#/components/schemas/Grants"})
    summary = "List a user's grants that the consumer may read."
    return _operation("listGrants", summary, [_path_parameter("user_id")], {"200": listed}, _NAME_PROBLEMS)


def _reconnect_operation() -> Json:
    link = _ok("Where the user consents again.", {"$ref": "#/components/schemas/Link"})
    names = {"needs", "tenant"}
    parameters = [
        *(_path_parameter(each) for each in ("user_id", "connection")),
        *(each for each in _query_parameters(admin=False) if each["name"] in names),
    ]
    summary = "Make the link by which a user consents again."
    return _operation("reconnect", summary, parameters, {"200": link}, _NAME_PROBLEMS)


def _auth0_hook_operation() -> Json:
    events = {
        "description": "Log events as an array, an object or lines; or one CloudEvent.",
        "required": True,
        "content": {"application/json": {"schema": {}}},
    }
    taken = _ok("Stored; whom they name is synced.", {"$ref": "#/components/schemas/HookEvents"})
    problems = (
        "bad-request",
        "invalid-token",
        "not-found",
        "request-timeout",
        "too-large",
        "internal-error",
        "temporarily-unavailable",
    )
    return _operation(
        "takeAuth0Events", "Take the events of an Auth0 log stream or event stream.", [], {"202": taken}, problems,
        requestBody=events,
    ) | {"security": [{"hookSecret": []}]}  # fmt: skip


def _security_events_operation() -> Json:
    refused = _ok("The token is refused (RFC 8935, 2.4).", {"$ref": "#/components/schemas/SetError"})
    answers = {"202": {"description": "Taken; the grants of its subject are tried."}, "400": refused}
    problems = ("not-found", "request-timeout", "too-large", "internal-error", "temporarily-unavailable")
    return _operation(
        "takeSecurityEvents", "Take a security event token (RFC 8417) of a provider.", [_path_parameter("name")],
        answers, problems,
        requestBody={"required": True, "content": {"application/secevent+jwt": {"schema": {"type": "string"}}}},
    ) | {"security": [{}, {"hookSecret": []}]}  # fmt: skip


def _proxy_operation(method: str) -> Json:
    """Describe a call of a provider's API.

    The provider may answer with any status and media type; a problem document is recognized by its media type.
    """
    headers = {
        ACCOUNT_HEADER: "The user's id at the provider, where several are linked.",
        USER_HEADER: "Whom a machine application calls for; it needs impersonate = true.",
    }
    path = _path_parameter("path") | {"description": "The API's path, with its slashes as they are."}
    parameters = [
        _path_parameter("connection"),
        path,
        *(
            {"name": name, "in": "header", "required": False, "description": text, "schema": _TEXT}
            for name, text in headers.items()
        ),
    ]
    anything: Json = {"content": {"*/*": {"schema": {}}}}
    more = {"requestBody": anything} if method in ("POST", "PUT", "PATCH") else {}
    problem: Json = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers = {
        "default": {
            "description": "The provider's answer; or a problem document, which tells why there is none.",
            "content": {**problem, **anything["content"]},
        }
    }
    summary = "Call the provider's API with the user's token, which the caller does not see."
    return _operation(f"proxy{method.title()}", summary, parameters, answers, (), **more)


def _open_operation(
    name: str, summary: str, problems: Sequence[str], media: str = "application/json"
) -> Json:
    answer = {"description": summary, "content": {media: {"schema": {}}}}
    return _operation(name, summary, [], {"200": answer}, (*problems, "internal-error")) | {"security": []}


def _operation(
    name: str,
    summary: str,
    parameters: Sequence[Json],
    answers: Mapping[str, Json],
    problems: Sequence[str],
    **more: Any,
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        **more,
        "responses": {**answers, **_problem_responses(problems)},
    }


def _problem_responses(codes: Sequence[str]) -> Json:
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(PROBLEM_TYPES[code].status), []).append(code)
    return {
        status: {"$ref": f"#/components/responses/{each[0]}"} if len(each) == 1 else _problem_response(*each)
        for status, each in by_status.items()
    }


def _problem_response(*codes: str) -> Json:
    types = [PROBLEM_TYPES[code] for code in codes]
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"type": {"enum": [each.uri for each in types]}}},
        ]
    }
    title = "; ".join(each.title for each in types)
    return {"description": f"{title}.", "content": {MEDIA_TYPE: {"schema": schema}}}


def _ok(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _query_parameters(*, admin: bool) -> list[Json]:
    def seconds(most: float) -> Json:
        return {"type": "number", "minimum": 0, "maximum": most}

    described: dict[str, tuple[str, Json]] = {
        "account": ("The user's id at the provider, where several are linked.", _TEXT),
        "resource": ("What the token is for, as the provider calls it.", _TEXT),
        "scopes": ("Scopes that the token is for, separated by blanks.", _TEXT),
        "needs": ("Scopes without which the token is of no use, separated by blanks.", _TEXT),
        "min_ttl": ("Seconds of life that the token must have.", seconds(MAX_MIN_TTL_SECONDS)),
        "wait": ("Seconds to wait for a refresh; 5 by default.", seconds(MAX_WAIT_SECONDS)),
        "tenant": ("The tenant's name, where the vault has several.", _TEXT),
        "reason": ("What the audit keeps as the reason of the read.", _TEXT),
    }
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in described.items()
        if not (admin and name == "account")
    ]
