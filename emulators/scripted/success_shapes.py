"""Answers that bring a new pair, in all known forms."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from emulators.scripted.script import Script, form_answer, json_answer
from emulators.scripted.shape import Exchange, Json, Shape, Trouble, collect

Omitted = Literal["access_token", "refresh_token", "end"]


def standard(exchange: Exchange, **others: Any) -> Json:
    """Make the fields of RFC 6749, 5.1.

    `others` are added, None takes a field out.
    """
    fields: Json = {"access_token": exchange.access_token, "token_type": "Bearer"}
    if exchange.life is not None:
        fields["expires_in"] = round(exchange.life)
    if exchange.refresh_token is not None:
        fields["refresh_token"] = exchange.refresh_token
    fields["scope"] = " ".join(exchange.scopes)
    return {name: value for name, value in {**fields, **others}.items() if value is not None}


def _success(
    name: str,
    source: str,
    fields: Callable[[Exchange], Any],
    *omits: Omitted,
    answer: Callable[[Any], Script] = json_answer,
    jwt: bool = False,
) -> Shape:
    return Shape(
        name,
        Trouble.NONE,
        carried_out=True,
        source=source,
        write=lambda exchange: answer(fields(exchange)),
        omits=frozenset(omits),
        access_token="jwt" if jwt else "opaque",
    )


def _life(exchange: Exchange) -> int | None:
    return None if exchange.life is None else round(exchange.life)


def _end(exchange: Exchange) -> int | None:
    return None if exchange.life is None else round(exchange.now + exchange.life)


def _iso_end(exchange: Exchange) -> str | None:
    end = _end(exchange)
    return None if end is None else datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z")


def _scaled(value: int | None, factor: int) -> int | None:
    return None if value is None else value * factor


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _seconds(value: float | None) -> int | None:
    return None if value is None else round(value)


def _camel_case(exchange: Exchange) -> Json:
    fields = {"accessToken": exchange.access_token, "refreshToken": exchange.refresh_token}
    return {**fields, "tokenType": "Bearer", "expiresIn": _life(exchange)}


def _salesforce(exchange: Exchange) -> Json:
    identity = "https://login.salesforce.example/id/00D/005"
    issued = str(round(exchange.now * 1000))
    extra = {"instance_url": "https://acme.my.salesforce.example", "id": identity, "issued_at": issued}
    return standard(exchange, expires_in=None, signature="c2lnbmF0dXJl", **extra)


def _slack(exchange: Exchange) -> Json:
    user = standard(exchange, token_type="user", scope=",".join(exchange.scopes), id="U0EMULATED")
    return {"ok": True, "app_id": "A0EMULATED", "authed_user": user, "team": {"id": "T0EMULATED"}}


def _entra_v1(exchange: Exchange) -> Json:
    end = {"expires_in": _text(_life(exchange)), "expires_on": _text(_end(exchange))}
    return standard(exchange, **end, not_before=str(round(exchange.now)), resource="https://graph.example")


SUCCESS_SHAPES = collect(
    _success("standard", "RFC 6749, 5.1", standard),
    _success("no_new_refresh_token", "Google: the refresh token stays", lambda e: standard(e, refresh_token=None), "refresh_token"),
    _success("same_refresh_token", "Box, Spotify: the old refresh token is repeated", lambda e: standard(e, refresh_token=e.refresh_token or e.presented)),
    _success("null_refresh_token", "servers that write absent values as null", lambda e: {**standard(e, refresh_token=None), "refresh_token": None}, "refresh_token"),
    _success("empty_refresh_token", "servers that write absent values as empty", lambda e: {**standard(e, refresh_token=None), "refresh_token": ""}, "refresh_token"),
    # The end of the access token
    _success("life_as_string", "Entra v1 writes numbers as strings", lambda e: standard(e, expires_in=_text(_life(e)))),
    _success("life_as_float", "servers that divide milliseconds", lambda e: standard(e, expires_in=e.life)),
    _success("life_in_milliseconds", "Zoho: expires_in in milliseconds beside expires_in_sec", lambda e: standard(e, expires_in=_scaled(_life(e), 1000), expires_in_sec=_life(e))),
    _success("end_in_unix_seconds", "Strava: expires_at", lambda e: standard(e, expires_in=None, expires_at=_end(e))),
    _success("end_in_unix_milliseconds", "expires_at of JavaScript servers", lambda e: standard(e, expires_in=None, expires_at=_scaled(_end(e), 1000))),
    _success("end_as_iso_time", "expires_at as ISO 8601", lambda e: standard(e, expires_in=None, expires_at=_iso_end(e))),
    _success("end_as_string", "Entra v1: expires_on", _entra_v1),
    _success("life_since_creation", "GitLab: created_at", lambda e: standard(e, created_at=round(e.now))),
    _success("extended_life", "Entra v2: ext_expires_in", lambda e: standard(e, ext_expires_in=_scaled(_life(e), 2))),
    _success("no_end", "providers that tell no end", lambda e: standard(e, expires_in=None), "end"),
    _success("end_in_jwt", "a JWT's exp where no life is told", lambda e: standard(e, expires_in=None), jwt=True),
    # Names and nesting
    _success("nested_in_data", "TikTok-like: data.access_token", lambda e: {"message": "success", "data": standard(e)}),
    _success("nested_in_authed_user", "Slack: authed_user.access_token", _slack),
    _success("id_token_only", "Azure AD B2C without a scope of its own API", lambda e: standard(e, access_token=None, id_token="eyJhbGciOiJub25lIn0.e30.", scope=None), "access_token"),
    _success("refresh_token_only", "a pair cut to its refresh token", lambda e: standard(e, access_token=None), "access_token"),
    _success("camel_case", "servers that name fields as their language does", _camel_case),
    _success("access_token_misnamed", "token instead of access_token", lambda e: standard(e, access_token=None, token=e.access_token)),
    # Scopes
    _success("scopes_by_comma", "GitHub, Slack, LinkedIn", lambda e: standard(e, scope=",".join(e.scopes))),
    _success("scopes_by_plus", "catalogue entries whose separator is a plus sign", lambda e: standard(e, scope="+".join(e.scopes))),
    _success("scopes_as_list", "scope as a JSON list", lambda e: standard(e, scope=list(e.scopes))),
    _success("scopes_misnamed", "Bitbucket until 2026: scopes", lambda e: standard(e, scope=None, scopes=" ".join(e.scopes))),
    _success("no_scopes", "RFC 6749, 5.1: scope is optional", lambda e: standard(e, scope=None)),
    _success("scope_lost", "the user took a scope back", lambda e: standard(e, scope=" ".join(e.scopes[:-1]))),
    # Values beside the token
    _success("instance_url", "Salesforce: instance_url, no end", _salesforce, "end"),
    _success("api_domain", "Zoho, Pipedrive: api_domain", lambda e: standard(e, api_domain="https://acme.api.example")),
    _success("api_endpoint", "Mailchimp-like: api_endpoint", lambda e: standard(e, api_endpoint="https://us1.api.example")),
    # Ends of the consent
    _success("idle_end", "GitHub, LinkedIn, Google: refresh_token_expires_in", lambda e: standard(e, refresh_token_expires_in=_seconds(e.idle_life))),
    _success("idle_end_of_intuit", "QuickBooks: x_refresh_token_expires_in", lambda e: standard(e, x_refresh_token_expires_in=_seconds(e.idle_life))),
    _success("idle_end_of_keycloak", "Keycloak: refresh_expires_in", lambda e: standard(e, refresh_expires_in=_seconds(e.idle_life))),
    _success("hard_end", "QuickBooks: x_refresh_token_hard_expires_in", lambda e: standard(e, x_refresh_token_expires_in=_seconds(e.idle_life), x_refresh_token_hard_expires_in=_seconds(e.hard_life))),
    _success("draft_ends", "draft-ietf-oauth-refresh-token-expiration", lambda e: standard(e, refresh_token_timeout=_seconds(e.idle_life), authorization_expires_in=_seconds(e.hard_life))),
    # Encodings
    _success("form_encoded", "GitHub without Accept: application/json", standard, answer=form_answer),
    _success("json_as_html", "JSON under the content type text/html", standard, answer=lambda fields: json_answer(fields, content_type="text/html; charset=utf-8")),
    _success("json_without_type", "JSON without a content type", standard, answer=lambda fields: json_answer(fields, content_type=None)),
    _success("form_as_text", "Facebook's former answers: a form under text/plain", standard, answer=lambda fields: form_answer(fields, content_type="text/plain")),
    _success("chunked", "HTTP/1.1: Transfer-Encoding", standard, answer=lambda fields: json_answer(fields, chunked=True)),
    _success("gzip", "RFC 9110, 8.4.1", standard, answer=lambda fields: json_answer(fields, content_encoding="gzip")),
    _success("created", "servers that answer 201", standard, answer=lambda fields: json_answer(fields, status=201)),
)  # fmt: skip


def half_of(exchange: Exchange) -> bytes:
    """Cut the standard answer in half."""
    text = json.dumps(standard(exchange)).encode()
    return text[: len(text) // 2]
