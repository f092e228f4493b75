"""Answers for a dead grant: its user must consent again."""

from typing import Any

from emulators.scripted.script import Script, html_answer, json_answer, text_answer
from emulators.scripted.shape import Json, Shape, Trouble, collect


def _dead(name: str, source: str, script: Script) -> Shape:
    return Shape(name, Trouble.USER, carried_out=False, source=source, write=lambda _: script)


def _error(code: Any, description: str | None = None, status: int = 400, **others: Any) -> Script:
    fields: Json = {"error": code}
    if description is not None:
        fields["error_description"] = description
    return json_answer({**fields, **others}, status)


def _entra(number: int, text: str, code: str = "invalid_grant", **others: Any) -> Script:
    trace = {"trace_id": "0f3c", "correlation_id": "9b1e", "timestamp": "2026-06-01 10:00:00Z"}
    return _error(code, f"AADSTS{number}: {text}", 400, error_codes=[number], **trace, **others)


_STRAVA = {
    "message": "Bad Request",
    "errors": [{"resource": "RefreshToken", "field": "refresh_token", "code": "invalid"}],
}
_FITBIT = {"errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid."}], "success": False}
_FACEBOOK = {
    "error": {
        "message": "Error validating access token: The session has been invalidated.",
        "type": "OAuthException",
        "code": 190,
        "error_subcode": 460,
        "fbtrace_id": "AbCdEf",
    }
}
_HUBSPOT = {
    "status": "BAD_REFRESH_TOKEN",
    "message": "missing or invalid refresh token",
    "correlationId": "1f",
}

DEAD_GRANT_SHAPES = collect(
    # The standard's word
    _dead("invalid_grant", "RFC 6749, 5.2", _error("invalid_grant", "Token has been expired or revoked.")),
    _dead("invalid_grant_bare", "RFC 6749, 5.2, without a description", _error("invalid_grant")),
    _dead("invalid_grant_401", "servers that answer 401 for it", _error("invalid_grant", status=401)),
    _dead("invalid_grant_403", "Auth0, Atlassian", _error("invalid_grant", "Unknown or invalid refresh token.", 403)),
    _dead("invalid_grant_as_html", "JSON under the content type text/html", _error("invalid_grant").changed(content_type="text/html")),
    _dead("invalid_rapt", "Google: the user has to sign in again", _error("invalid_grant", "reauth related error (invalid_rapt)", error_subtype="invalid_rapt")),
    # Entra
    _dead("entra_revoked", "Entra: AADSTS50173, the password was changed", _entra(50173, "The provided grant has expired due to it being revoked.", suberror="bad_token")),
    _dead("entra_inactive", "Entra: AADSTS700082, unused for 90 days", _entra(700082, "The refresh token has expired due to inactivity.", suberror="bad_token")),
    _dead("entra_mfa", "Entra: AADSTS50076, a second factor is wanted", _entra(50076, "You must use multi-factor authentication.", suberror="basic_action")),
    _dead("entra_consent", "Entra: AADSTS65001, no consent", _entra(65001, "The user or administrator has not consented.", suberror="consent_required")),
    _dead("interaction_required", "OpenID Connect Core, 3.1.2.6; Entra", _entra(50079, "The user is required to enrol.", "interaction_required")),
    _dead("consent_required", "OpenID Connect Core, 3.1.2.6", _error("consent_required")),
    _dead("login_required", "OpenID Connect Core, 3.1.2.6", _error("login_required")),
    # Words of the provider's own
    _dead("bad_refresh_token_200", "GitHub: errors come with 200", _error("bad_refresh_token", "The refresh token passed is incorrect or expired.", 200)),
    _dead("invalid_refresh_token_200", "Slack: 200 and ok false", json_answer({"ok": False, "error": "invalid_refresh_token"})),
    _dead("invalid_code", "LinkedIn-like", _error("invalid_code")),
    _dead("status_without_error", "HubSpot: BAD_REFRESH_TOKEN", json_answer(_HUBSPOT, 400)),
    _dead("invalid_token_401", "Cloud Foundry UAA, Spring", _error("invalid_token", "Invalid refresh token (expired)", 401)),
    _dead("unauthorized_client_401", "Gitea, Google: for one user alone", _error("unauthorized_client", "unable to parse refresh token", 401)),
    _dead("unauthorized_client_400", "Gitea: for one user alone", _error("unauthorized_client", "token was already used")),
    _dead("admin_policy_enforced", "Google: the user's administrator forbids the app", _error("admin_policy_enforced", "The user's administrator has restricted access.")),
    _dead("org_internal", "Google: the user left the organization", _error("org_internal", "Restricted to users of one organization.")),
    _dead("app_not_found", "Salesforce: the app is not installed in the user's organization", _error("app_not_found", "External client app is not installed in this org")),
    _dead("app_blocked", "Salesforce: the user's organization blocks the app", _error("OAUTH_APP_BLOCKED", "this app is blocked by admin")),
    _dead("access_denied_403", "RFC 6749, 4.1.2.1, given for a refresh", _error("access_denied", status=403)),
    # Structures of the provider's own
    _dead("errors_list_code", "Strava: errors[].code", json_answer(_STRAVA, 400)),
    _dead("errors_list_code_401", "Strava-like, 401", json_answer(_STRAVA, 401)),
    _dead("errors_list_type", "Fitbit: errors[].errorType", json_answer(_FITBIT, 400)),
    _dead("error_object", "Facebook: error is an object", json_answer(_FACEBOOK, 400)),
    _dead("error_number", "a numeric error", _error(1003, status=400, message="refresh token expired")),
    _dead("code_number", "a numeric code beside a message", json_answer({"code": 40102, "msg": "invalid refresh token"}, 401)),
    _dead("code_number_200", "TikTok-like: a code in a 200", json_answer({"data": {"error_code": 10010, "description": "Refresh token is expired"}, "message": "error"})),
    _dead("message_only", "a message alone", json_answer({"message": "The refresh token is invalid."}, 400)),
    _dead("error_in_list", "a list of words", json_answer({"errors": ["invalid_refresh_token"]}, 422)),
    _dead("problem_details", "RFC 9457", json_answer({"type": "about:blank", "title": "Grant revoked", "status": 400}, 400, content_type="application/problem+json")),
    # No words at all
    _dead("html_401", "a page for people", html_answer("Session expired", 401)),
    _dead("html_400", "a page for people", html_answer("Bad Request", 400)),
    _dead("text_403", "a line of text", text_answer("token revoked", 403)),
    _dead("empty_401", "no body", Script(401, content_type=None)),
    _dead("empty_400", "no body", Script(400, content_type=None)),
    _dead("empty_json_400", "an empty object", json_answer({}, 400)),
    _dead("null_json_400", "null", json_answer(None, 400)),
)  # fmt: skip
