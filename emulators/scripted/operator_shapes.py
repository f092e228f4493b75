"""Answers for a wrong client: its users' grants live."""

from typing import Any

from emulators.scripted.script import Script, html_answer, json_answer
from emulators.scripted.shape import Shape, Trouble, collect


def _wrong(name: str, source: str, script: Script) -> Shape:
    return Shape(name, Trouble.OPERATOR, carried_out=False, source=source, write=lambda _: script)


def _error(code: Any, description: str | None = None, status: int = 400, **others: Any) -> Script:
    described = {} if description is None else {"error_description": description}
    return json_answer({"error": code, **described, **others}, status)


def _entra(number: int, text: str, code: str, status: int = 400) -> Script:
    return _error(code, f"AADSTS{number}: {text}", status, error_codes=[number], trace_id="0f3c")


_FACEBOOK = {"message": "Error validating client secret.", "type": "OAuthException", "code": 1}

WRONG_CLIENT_SHAPES = collect(
    _wrong("invalid_client_401", "RFC 6749, 5.2", _error("invalid_client", "Client authentication failed.", 401)),
    _wrong("invalid_client_400", "servers that answer 400 for it", _error("invalid_client", "The client is unknown.")),
    _wrong("invalid_client_basic", "RFC 6749, 5.2: with WWW-Authenticate", _error("invalid_client", status=401).changed(headers={"www-authenticate": 'Basic realm="oauth"'})),
    _wrong("incorrect_credentials_200", "GitHub: errors come with 200", _error("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.", 200)),
    _wrong("bad_client_secret_200", "Slack: 200 and ok false", json_answer({"ok": False, "error": "bad_client_secret"})),
    _wrong("entra_wrong_secret", "Entra: AADSTS7000215", _entra(7000215, "Invalid client secret provided.", "invalid_client", 401)),
    _wrong("entra_expired_secret", "Entra: AADSTS7000222", _entra(7000222, "The provided client secret keys are expired.", "invalid_client", 401)),
    _wrong("entra_no_secret", "Entra: AADSTS7000218", _entra(7000218, "The request body must contain client_assertion or client_secret.", "invalid_client", 401)),
    _wrong("entra_unknown_app", "Entra: AADSTS700016", _entra(700016, "Application was not found in the directory.", "unauthorized_client")),
    _wrong("unauthorized_client", "RFC 6749, 5.2: the client may not refresh", _error("unauthorized_client", "Grant type refresh_token is not allowed for this client.")),
    _wrong("disabled_client", "Google: the client was disabled", _error("disabled_client", "The OAuth client was disabled.", 401)),
    _wrong("deleted_client", "Google: the client was deleted", _error("deleted_client", "The OAuth client was deleted.", 401)),
    _wrong("facebook_client_secret", "Facebook: error is an object", json_answer({"error": _FACEBOOK}, 400)),
    _wrong("client_html_401", "a page for people", html_answer("Unauthorized", 401)),
)  # fmt: skip
OTHER_CLIENT_SHAPES = collect(
    _wrong("other_client", "the token belongs to the former client", _error("invalid_grant", "refresh token was not issued to this client")),
    _wrong("other_client_bare", "the same without words", _error("invalid_grant")),
    _wrong("other_client_gitlab", "GitLab: one text for all causes", _error("invalid_grant", "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client.")),
    _wrong("other_client_entra", "Entra: AADSTS700016 after a change of the app", _entra(700016, "Application was not found in the directory.", "invalid_grant")),
)  # fmt: skip
"""For a refresh token that another client of the same provider was given."""
WRONG_REQUEST_SHAPES = collect(
    _wrong("unsupported_grant_type", "RFC 6749, 5.2", _error("unsupported_grant_type")),
    _wrong("invalid_scope", "RFC 6749, 5.2", _error("invalid_scope", "The requested scope is unknown.")),
    _wrong("invalid_request", "RFC 6749, 5.2", _error("invalid_request", "redirect_uri is missing.")),
    _wrong("invalid_resource", "RFC 8707: invalid_target; Entra: invalid_resource", _error("invalid_resource")),
    _wrong("redirect_uri_mismatch", "GitHub, Google", _error("redirect_uri_mismatch", "The redirect_uri does not match.")),
    _wrong("entra_unknown_tenant", "Entra: AADSTS90002", _entra(90002, "Tenant not found.", "invalid_request")),
    _wrong("entra_invalid_scope", "Entra: AADSTS70011", _entra(70011, "The provided value for scope is not valid.", "invalid_scope")),
    _wrong("not_found", "a wrong token URL", html_answer("Not Found", 404)),
    _wrong("method_not_allowed", "a wrong token URL", html_answer("Method Not Allowed", 405)),
)  # fmt: skip

OPERATOR_SHAPES = {**WRONG_CLIENT_SHAPES, **OTHER_CLIENT_SHAPES, **WRONG_REQUEST_SHAPES}
