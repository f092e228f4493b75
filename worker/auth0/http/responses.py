"""Classifies Auth0's answers: JSON, or a typed error.

Errors name the endpoint, the domain and the remedy. Of Auth0's body they contain only the machine-readable code, as a
body may contain tokens. Source: Auth0 Management API v2, the responses of each endpoint; RFC 6749 section 5.2.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

from token_vault.secret import SecretDict
from worker.auth0.errors import (
    Auth0Error,
    Auth0NotFound,
    Auth0Refused,
    Auth0Unreachable,
    MalformedAnswer,
    MissingScope,
)

# What does not work without each scope; the documentation and `doctor` say the same.
SCOPES = {
    "read:users": "no user can be read, so nothing is synced",
    "read:user_idp_tokens": "identities come without their tokens, silently, so no user token is stored",
    "read:connections": "no connection can be read, so neither its settings nor its admin token is known",
    "read:connections_options": (
        "connections come without options, silently, so client credentials are unknown "
        "and no token of theirs is renewed"
    ),
}

# What is slower or costs more calls without each scope, but works.
OPTIONAL_SCOPES = {
    "read:logs": (
        "the tenant log cannot be read, so incremental sync scans the users by their last update, "
        "which sees a change later and no deletion"
    ),
    "read:events": "the event stream cannot be read, so a change is seen at the next incremental sync",
}

_CODE = re.compile(r"[a-z_]{1,40}")
_SCOPE = re.compile(r"\b[a-z]+:[a-z_]+\b")


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, as named in errors.

    Attributes:
        name: method and path template.
        host: the domain.
        subject: what is missing if the answer is a 404.
        scope: what is missing if the answer is a 403 that names no scope.
        group: which of the tenant's rate limits counts its calls, a key of ``Plan.limits``.
    """

    name: str
    host: str
    subject: str = ""
    scope: str = ""
    group: str = "other"

    def __str__(self) -> str:
        return f"{self.name} at {self.host}"


def consequence_without(scope: str, otherwise: str) -> str:
    """Return what cannot be done without a scope."""
    return SCOPES.get(scope) or OPTIONAL_SCOPES.get(scope) or otherwise


def read_json(response: httpx.Response, endpoint: Endpoint) -> Any:
    """Return the JSON value of an answer.

    Raises:
        MalformedAnswer: it is not JSON.
    """
    try:
        # Hides its contents, because error reports may print the variables of the callers' frames.
        return json.loads(response.content, object_hook=SecretDict)
    except (ValueError, RecursionError):
        pass
    # Raised outside the except: the decoder's error contains the whole body, and must not be chained.
    raise MalformedAnswer(
        f"{endpoint}: the answer ({response.status_code}) is not JSON; check that AUTH0_DOMAIN is the tenant "
        "and that no proxy answers in its place",
        status=response.status_code,
    )


def read_error_code(response: httpx.Response) -> str | None:
    """Return Auth0's ``errorCode`` or OAuth's ``error``, else None.

    Only text that looks like a code is returned, as any other may be a token.
    """
    problem = _read_problem(response)
    for key in ("errorCode", "error"):
        code = problem.get(key)
        if isinstance(code, str) and _CODE.fullmatch(code):
            return code
    return None


def api_error(response: httpx.Response, endpoint: Endpoint) -> Exception:
    """Return the error for an unsuccessful answer of the API.

    Except for a 429, which was retried before.
    """
    status, code = response.status_code, read_error_code(response)
    problem = _read_problem(response)
    if status == 401:
        return Auth0Refused(
            f"{endpoint}: a newly minted token is refused; check that AUTH0_AUDIENCE belongs to this domain",
            status=status,
            code=code,
        )
    if status == 403 and code == "insufficient_scope":
        named = tuple(_SCOPE.findall(_text_of(problem, "message").partition("expected any of:")[2]))
        scopes = named or (endpoint.scope,)
        return MissingScope(
            scopes, "; ".join(consequence_without(scope, f"{endpoint} fails") for scope in scopes)
        )
    if status == 403:
        return Auth0Refused(
            f"{endpoint}: forbidden{_in_parentheses(code)}; check the application's client grant for the "
            "Management API and the tenant's access rules",
            status=status,
            code=code,
        )
    if status == 404 and problem:  # a 404 that is not Auth0's says nothing about the user
        return Auth0NotFound(f"{endpoint.host} has no {endpoint.subject}", status=status, code=code)
    if status == 414:
        return Auth0Error(f"{endpoint}: the request line is too long for Auth0; ask for less", status=status)
    return _other_error(response, endpoint, code)


def token_error(response: httpx.Response, endpoint: Endpoint) -> Exception:
    """Return the error for a refused token request.

    Except for a 429, which was retried before.
    """
    status, code = response.status_code, read_error_code(response)
    description = _text_of(_read_problem(response), "error_description")
    if code == "unauthorized_client":
        remedy = "switch on the client credentials grant type in the application's advanced settings"
    elif status == 403 and description.startswith("Service not found"):
        remedy = "no API has this audience; set AUTH0_AUDIENCE to https://{canonical tenant domain}/api/v2/"
    elif status == 403:
        remedy = (
            "the application is not authorized; create a client grant for it under "
            "Applications > APIs > Auth0 Management API"
        )
    elif status == 401 or code == "invalid_client":
        remedy = (
            "wrong client id, secret or key; "
            "check AUTH0_CLIENT_ID and AUTH0_CLIENT_SECRET (or AUTH0_PRIVATE_KEY)"
        )
    else:
        return _other_error(response, endpoint, code)
    return Auth0Refused(f"{endpoint}: refused{_in_parentheses(code)}: {remedy}", status=status, code=code)


def _other_error(response: httpx.Response, endpoint: Endpoint, code: str | None) -> Auth0Error:
    status = response.status_code
    if response.is_server_error:
        return Auth0Unreachable(f"{endpoint}: Auth0 fails with {status}", status=status, code=code)
    if response.is_redirect:
        return MalformedAnswer(
            f"{endpoint}: redirected ({status}), which is not followed; AUTH0_DOMAIN must be the tenant's own "
            "or its custom domain",
            status=status,
            code=code,
        )
    if not _read_problem(response):
        return MalformedAnswer(
            f"{endpoint}: {status} without Auth0's error body; check that AUTH0_DOMAIN is the tenant and "
            "that no proxy answers in its place",
            status=status,
        )
    return Auth0Error(f"{endpoint}: Auth0 answered {status}{_in_parentheses(code)}", status=status, code=code)


def _read_problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _text_of(problem: dict[str, Any], key: str) -> str:
    value = problem.get(key)
    return value if isinstance(value, str) else ""


def _in_parentheses(code: str | None) -> str:
    return f" ({code})" if code else ""
