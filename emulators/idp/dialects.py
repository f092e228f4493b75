"""How each provider words its answers and its errors."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import jwt

from emulators.clock import iso
from emulators.idp.behaviour import Behaviour
from emulators.idp.tokens import AccessToken, Grant

Json = dict[str, Any]
Wording = Mapping[str, tuple[int, str, str]]  # what is wrong -> HTTP status, error code, description

STANDARD: Wording = {
    "bad_client": (401, "invalid_client", "Client authentication failed."),
    "unknown": (400, "invalid_grant", "The refresh token is invalid."),
    "expired": (400, "invalid_grant", "The refresh token is expired."),
    "revoked": (400, "invalid_grant", "The refresh token was revoked."),
    "reused": (400, "invalid_grant", "The refresh token was already used."),
    "bad_request": (400, "invalid_request", "A required parameter is missing."),
    "bad_grant_type": (400, "unsupported_grant_type", "The grant type is not supported."),
    "bad_scope": (400, "invalid_scope", "The requested scope exceeds the granted one."),
}


def _dead_grant(status: int, code: str, description: str) -> Wording:
    return dict.fromkeys(("unknown", "expired", "revoked", "reused"), (status, code, description))


_GITLAB = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used "
    "in the authorization request, or was issued to another client."
)
WORDINGS: dict[str, Wording] = {
    "standard": STANDARD,
    "google": {
        **STANDARD,
        **_dead_grant(400, "invalid_grant", "Token has been expired or revoked."),
        "bad_client": (401, "invalid_client", "Unauthorized"),
    },
    "bitbucket": {**STANDARD, **_dead_grant(400, "invalid_grant", "Invalid refresh_token")},
    "okta": {
        **STANDARD,
        **_dead_grant(400, "invalid_grant", "The refresh token is invalid or expired."),
        "bad_client": (
            401,
            "invalid_client",
            "The client secret supplied for a confidential client is invalid.",
        ),
    },
    "gitlab": {**STANDARD, **_dead_grant(400, "invalid_grant", _GITLAB)},
    "auth0": {**STANDARD, **_dead_grant(403, "invalid_grant", "Unknown or invalid refresh token.")},
    "github": {
        **{kind: (200, code, text) for kind, (_, code, text) in STANDARD.items()},
        **_dead_grant(200, "bad_refresh_token", "The refresh token passed is incorrect or expired."),
        "bad_client": (
            200,
            "incorrect_client_credentials",
            "The client_id and/or client_secret passed are incorrect.",
        ),
    },
    "slack": {
        **{kind: (200, code, text) for kind, (_, code, text) in STANDARD.items()},
        **_dead_grant(200, "invalid_refresh_token", ""),
        "bad_client": (200, "bad_client_secret", ""),
    },
    "facebook": {
        **{kind: (400, "100", text) for kind, (_, _, text) in STANDARD.items()},
        **_dead_grant(400, "190/460", "Error validating access token: The session has been invalidated."),
        "expired": (400, "190/463", "Error validating access token: Session has expired."),
        "bad_client": (400, "1", "Error validating client secret."),
    },
    "entra": {
        "bad_client": (401, "invalid_client", "AADSTS7000215: Invalid client secret provided."),
        "unknown_client": (
            400,
            "unauthorized_client",
            "AADSTS700016: Application was not found in the directory.",
        ),
        "unknown": (400, "invalid_grant", "AADSTS70000: The provided grant is invalid or malformed."),
        "expired": (400, "invalid_grant", "AADSTS700082: The refresh token has expired due to inactivity."),
        "revoked": (
            400,
            "invalid_grant",
            "AADSTS50173: The provided grant has expired due to it being revoked.",
        ),
        "reused": (
            400,
            "invalid_grant",
            "AADSTS50173: The provided grant has expired due to it being revoked.",
        ),
        "bad_request": (400, "invalid_request", "AADSTS900144: The request body lacks a required parameter."),
        "bad_grant_type": (400, "unsupported_grant_type", "AADSTS70003: The grant type is not supported."),
        "bad_scope": (400, "invalid_scope", "AADSTS70011: The provided value for 'scope' is not valid."),
        "bad_tenant": (400, "invalid_request", "AADSTS90002: Tenant not found."),
    },
}
STATUS_OF_CODE = {
    "invalid_client": 401,
    "server_error": 500,
    "temporarily_unavailable": 503,
    "slow_down": 429,
}


def refusal(dialect: str, kind: str, now: float) -> tuple[int, Json]:
    """Word a refusal as the provider does: status and body."""
    wording = WORDINGS[dialect]
    status, code, description = wording.get(kind) or wording["bad_client"]
    return status, _error(dialect, code, description, now)


def planted_error(dialect: str, error: tuple[str, str], now: float) -> tuple[int, Json]:
    """Word an error by its code in the provider's form.

    For a test that asks for it.
    """
    code, description = error
    usual = WORDINGS[dialect]["unknown"][0]  # GitHub and Slack: 200; Auth0: 403
    status = usual if usual != 400 else STATUS_OF_CODE.get(code, 400)
    return status, _error(dialect, code, description, now)


def _error(dialect: str, code: str, description: str, now: float) -> Json:
    match dialect:
        case "entra":
            return _entra_error(code, description, now)
        case "facebook":
            return {"error": _facebook_error(code, description)}
        case "slack":
            return {"ok": False, "error": code}
        case "github":
            page = "https://docs.github.com/apps"
            return {"error": code, "error_description": description, "error_uri": page}
        case _:
            return {"error": code, "error_description": description}


def _entra_error(code: str, description: str, now: float) -> Json:
    trace, correlation, when = str(uuid4()), str(uuid4()), iso(now).replace("T", " ")[:19] + "Z"
    numbers = [int(number) for number in re.findall(r"AADSTS(\d+)", description)]
    body: Json = {
        "error": code,
        "error_description": f"{description} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {when}",
        "error_codes": numbers,
        "timestamp": when,
        "trace_id": trace,
        "correlation_id": correlation,
    }
    if code == "invalid_grant":
        body["suberror"] = "bad_token"
    return body


def _facebook_error(code: str, description: str) -> Json:
    number, _, subcode = code.partition("/")
    error: Json = {
        "message": description,
        "type": "OAuthException",
        "code": int(number) if number.isdigit() else 1,
        "fbtrace_id": uuid4().hex[:11],
    }
    if subcode:
        error["error_subcode"] = int(subcode)
    return error


def answer(
    behaviour: Behaviour,
    grant: Grant,
    access: AccessToken,
    now: float,
    *,
    v1: bool,
    resource: str,
    issuer: str,
) -> Json:
    """Word a renewed pair as the provider does."""
    body: Json = {"access_token": access.value, "token_type": "Bearer"}
    if access.expires_at is not None:
        body["expires_in"] = round(access.expires_at - now)
    if access.refresh is not None and (behaviour.rotates or behaviour.refresh_in_answer):
        body["refresh_token"] = access.refresh.value
    if behaviour.announce_refresh_expiry and behaviour.refresh_idle_life is not None:
        body["refresh_token_expires_in"] = round(behaviour.refresh_idle_life)
    if behaviour.scope_field:
        body[behaviour.scope_field] = grant.scope
    if behaviour.id_token:
        claims = {"iss": issuer, "sub": grant.identity[1], "aud": grant.client_id, "iat": int(now)}
        body["id_token"] = jwt.encode(
            {**claims, "exp": int(now) + 3600}, grant.client_id.ljust(32, "-"), algorithm="HS256"
        )
    _oddities(behaviour, body, grant, now, v1=v1, resource=resource)
    if behaviour.numbers_as_strings or v1:
        body.update({name: str(value) for name, value in body.items() if isinstance(value, int | float)})
    if behaviour.dialect == "slack":
        return _slack_answer(body, grant)
    return body


def _oddities(behaviour: Behaviour, body: Json, grant: Grant, now: float, *, v1: bool, resource: str) -> None:
    match behaviour.dialect:
        case "entra" if v1:
            life = body["expires_in"]
            body |= {
                "expires_on": int(now) + life,
                "not_before": int(now),
                "resource": resource or grant.client_id,
            }
        case "entra":
            body["ext_expires_in"] = body["expires_in"]
        case "gitlab":
            body["created_at"] = int(now)
        case "github" | "facebook":
            body["token_type"] = "bearer"


def _slack_answer(body: Json, grant: Grant) -> Json:
    body.pop("token_type")
    return {
        "ok": True,
        "app_id": "A0EMULATED",
        "team": {"id": "T0EMULATED"},
        "authed_user": {"id": grant.identity[1], "token_type": "user", **body},
    }
