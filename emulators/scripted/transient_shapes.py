"""Answers that pass by themselves, and connections that break."""

import math
from collections.abc import Callable
from typing import Any

from emulators.scripted.script import Cut, Script, html_answer, http_date, json_answer, text_answer
from emulators.scripted.shape import Exchange, Shape, Trouble, collect
from emulators.scripted.success_shapes import half_of, standard

RETRY_AFTER_SECONDS = 30
SLOW_SECONDS = 1.0


def _passing(name: str, source: str, write: Script | Callable[[Exchange], Script]) -> Shape:
    """Make a shape of a request not carried out."""
    made = write if callable(write) else lambda _, script=write: script
    return Shape(name, Trouble.NOBODY, carried_out=False, source=source, write=made)


def _in_doubt(name: str, source: str, write: Callable[[Exchange], Script]) -> Shape:
    """Make a shape of a request carried out unseen."""
    return Shape(
        name,
        Trouble.NOBODY,
        carried_out=True,
        source=source,
        write=write,
        omits=frozenset({"access_token", "refresh_token", "end"}),
    )


def _error(code: str, description: str | None = None, status: int = 400, **others: Any) -> Script:
    described = {} if description is None else {"error_description": description}
    return json_answer({"error": code, **described}, status, **others)


def _entra(number: int, text: str, code: str, status: int = 400) -> Script:
    fields = {"error": code, "error_description": f"AADSTS{number}: {text}", "error_codes": [number]}
    return json_answer(fields, status)


def _cut(cut: Cut) -> Callable[[Exchange], Script]:
    return lambda exchange: json_answer(standard(exchange), cut=cut)


_RETRY = {"retry-after": str(RETRY_AFTER_SECONDS)}
_TOO_MANY = "You have made too many requests continuously. Please try again after some time."

THROTTLED_SHAPES = collect(
    _passing("throttled", "RFC 6585, 4: without Retry-After", _error("too_many_requests", status=429)),
    _passing("throttled_seconds", "RFC 9110, 10.2.3: Retry-After in seconds", _error("rate_limited", status=429, headers=_RETRY)),
    _passing("throttled_date", "RFC 9110, 10.2.3: Retry-After as a date", lambda e: _error("rate_limited", status=429, headers={"retry-after": http_date(e.now + RETRY_AFTER_SECONDS)})),
    _passing("throttled_text", "a proxy's line of text", text_answer("Rate limit exceeded", 429)),
    _passing("slow_down", "RFC 8628, 3.5", _error("slow_down")),
    _passing("access_denied_throttled", "Zoho: Access Denied means throttled", _error("Access Denied", _TOO_MANY)),
    _passing("entra_loop", "Entra: AADSTS50196 inside invalid_grant", _entra(50196, "The server terminated an operation because it encountered a client request loop.", "invalid_grant")),
    _passing("entra_throttled", "Entra: AADSTS90055", _entra(90055, "The tenant has too many requests.", "temporarily_unavailable", 429)),
)  # fmt: skip
UNAVAILABLE_SHAPES = collect(
    _passing("already_processed", "Salesforce: an invalid_grant that passes", _error("invalid_grant", "token request is already being processed")),
    _passing("temporarily_unavailable", "RFC 6749, 4.1.2.1", _error("temporarily_unavailable", status=503)),
    _passing("temporarily_unavailable_400", "the same with 400", _error("temporarily_unavailable")),
    _passing("server_error", "RFC 6749, 4.1.2.1", _error("server_error", status=500)),
    _passing("entra_transient", "Entra: AADSTS90033", _entra(90033, "A transient error has occurred.", "temporarily_unavailable", 503)),
    _passing("maintenance", "a proxy's page with Retry-After", html_answer("Down for maintenance", 503, headers=_RETRY)),
    _passing("bad_gateway", "a proxy's page", html_answer("502 Bad Gateway", 502)),
    _passing("gateway_timeout", "a proxy's page", html_answer("504 Gateway Time-out", 504)),
    _passing("internal_error", "a proxy's page", html_answer("Internal Server Error", 500)),
    _passing("request_timeout", "RFC 9110, 15.5.9", text_answer("Request Timeout", 408)),
    _passing("login_page_200", "a captive portal in front of it", html_answer("Sign in to the network", 200)),
)  # fmt: skip
BROKEN_CONNECTION_SHAPES = collect(
    _passing("reset_before_answer", "the request was read and not carried out", Script(cut="before")),
)
IN_DOUBT_SHAPES = collect(
    _in_doubt("lost_before_answer", "carried out, no byte of the answer came", _cut("before")),
    _in_doubt("lost_in_headers", "carried out, half of the headers came", _cut("mid_headers")),
    _in_doubt("lost_after_headers", "carried out, the headers came", _cut("after_headers")),
    _in_doubt("lost_in_body", "carried out, half of the body came", _cut("mid_body")),
    _in_doubt("short_body", "carried out, an orderly end after half of the body", _cut("short_body")),
    _in_doubt("half_json", "carried out, 2xx that cannot be parsed", lambda e: Script(200, half_of(e))),
    _in_doubt("empty_200", "carried out, 2xx without a body", lambda _: Script(200)),
    _in_doubt("error_after_rotation", "carried out, then 500 from the server", lambda _: html_answer("Internal Server Error", 500)),
    _in_doubt("gateway_gave_up", "carried out behind a proxy that did not wait", lambda _: html_answer("504 Gateway Time-out", 504)),
    _in_doubt("slack_internal_error", "Slack: internal_error with 200", lambda _: json_answer({"ok": False, "error": "internal_error"})),
    _in_doubt("slack_fatal_error", "Slack: fatal_error with 200", lambda _: json_answer({"ok": False, "error": "fatal_error"})),
    _in_doubt("hanging", "carried out, and no answer until the caller gives up", lambda e: json_answer(standard(e), delay=math.inf)),
)  # fmt: skip
SLOW_SHAPES = collect(
    Shape(
        "slow",
        Trouble.NONE,
        carried_out=True,
        source="an answer that takes its time",
        write=lambda exchange: json_answer(standard(exchange), delay=SLOW_SECONDS),
    )
)

TRANSIENT_SHAPES = {**THROTTLED_SHAPES, **UNAVAILABLE_SHAPES, **BROKEN_CONNECTION_SHAPES, **IN_DOUBT_SHAPES}
