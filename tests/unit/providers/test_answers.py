"""Reading any answer: the generic rules, wild input, and that nothing of an answer leaks into a refusal."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from token_vault.secret import Secret
from worker.providers import Provider, RefusalBlame, Refused, Renewed, get, names, unreachable
from worker.providers.error_codes import BLAMES
from worker.token_pair import TokenPair

SENT = datetime(2026, 3, 15, 7, 14, 32, tzinfo=UTC)
GENERIC = get("oauth2")
CANARY = "canaryQ7xZ"


def read(
    answer: object,
    status: int = 200,
    provider: Provider = GENERIC,
    content_type: str = "application/json",
    **headers: str,
) -> Renewed | Refused:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return provider.read(status, {"Content-Type": content_type, **named}, body, sent_at=SENT)


def pair(answer: object, **how: Any) -> TokenPair:
    outcome = read(answer, **how)
    assert isinstance(outcome, Renewed), outcome
    return outcome.pair


def refused(answer: object, status: int = 200, **how: Any) -> Refused:
    outcome = read(answer, status, **how)
    assert isinstance(outcome, Refused), outcome
    return outcome


def test_full_answer() -> None:
    """Every part of a documented answer is read."""
    assert pair(
        {
            "access_token": "at",
            "refresh_token": "rt",
            "expires_in": 3600,
            "refresh_token_expires_in": 86400,
            "scope": "a b",
            "token_type": "Bearer",
        }
    ) == TokenPair(
        access=Secret("at"),
        refresh=Secret("rt"),
        expires_at=SENT + timedelta(hours=1),
        refresh_expires_at=SENT + timedelta(days=1),
        scopes=("a", "b"),
    )


@pytest.mark.parametrize("refresh", ["rt\n", "r\u00e9", "r t", "r" * 20_000])
def test_an_odd_refresh_token_is_kept(refresh: str) -> None:
    """A provider may have rotated to what RFC 6749 does not allow: the old one is spent then, and this one is all."""
    assert pair({"access_token": "at", "refresh_token": refresh}).refresh == Secret(refresh)


@pytest.mark.parametrize("refresh", ["", " ", None, 0, False, [], {}, 17, "r\ud800"])
def test_no_refresh_token(refresh: object) -> None:
    """An absent, null, empty or impossible refresh token never comes out as one."""
    assert pair({"access_token": "at", "refresh_token": refresh}).refresh is None
    assert pair({"access_token": "at"}).refresh is None


NO_LIVES: tuple[object, ...] = (0, -1, "0", "", "soon", None, True, [], {}, "NaN", "inf")
HUGE_LIVES: tuple[object, ...] = (10**9, 10**18, 10**400, "1" * 5000, 1e300, 1773558872)
NO_SCOPES: tuple[object, ...] = ("", " ", None, 7, {}, [])


@pytest.mark.parametrize(
    ("life", "seconds"),
    [
        (3599, 3599),
        ("3599", 3599),
        (" 3599 ", 3599),
        (3599.5, 3599.5),
        ("3599.0", 3599),
        (1, 1),
        *((life, None) for life in (*NO_LIVES, *HUGE_LIVES)),
    ],
)
def test_expiry(life: object, seconds: float | None) -> None:
    """A life is read from any spelling of a number; what says nothing leaves it unknown and keeps the pair."""
    got = pair({"access_token": "at", "refresh_token": "rt", "expires_in": life})
    assert got.refresh == Secret("rt")
    assert got.expires_at == (SENT + timedelta(seconds=seconds) if seconds else None)


def test_number_too_long_to_read() -> None:
    """A number longer than the interpreter converts costs the expiry, not the pair."""
    got = pair(b'{"access_token":"at","refresh_token":"rt","expires_in":%s}' % (b"9" * 10_000))
    assert (got.refresh, got.expires_at) == (Secret("rt"), None)


def test_default_life() -> None:
    """A provider's declared default stands in where the answer has no usable life."""
    provider = Provider(name="p", default_life=timedelta(minutes=15))
    for life in (None, 0, "soon"):
        got = pair({"access_token": "at", "expires_in": life}, provider=provider)
        assert got.expires_at == SENT + timedelta(minutes=15)
    got = pair({"access_token": "at", "expires_in": 60}, provider=provider)
    assert got.expires_at == SENT + timedelta(minutes=1)


@pytest.mark.parametrize(
    "value", ["2026-03-15T08:14:32Z", "2026-03-15T09:14:32+01:00", 1773562472, 1773562472000]
)
def test_absolute_expiry(value: object) -> None:
    """Where declared, the expiry is a point in time."""
    provider = Provider(name="p", expires_in="expires_at", expires_unit="absolute")
    got = pair({"access_token": "at", "expires_at": value}, provider=provider)
    assert got.expires_at == SENT + timedelta(hours=1)


def test_a_time_without_offset_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time zone of the machine does not move a token's end."""
    provider = Provider(name="p", expires_in="expires_at", expires_unit="absolute")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        got = pair({"access_token": "at", "expires_at": "2026-03-15T08:14:32"}, provider=provider)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert got.expires_at == SENT + timedelta(hours=1)


def test_milliseconds() -> None:
    """Where declared, the life is counted in milliseconds."""
    provider = Provider(name="p", expires_unit=timedelta(milliseconds=1))
    got = pair({"access_token": "at", "expires_in": 3_600_000}, provider=provider)
    assert got.expires_at == SENT + timedelta(hours=1)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("a b", ("a", "b")),
        (["a", "b"], ("a", "b")),
        (["a", 1, None, "b\x00"], ("a",)),
        ("https://x/.default", ("https://x/.default",)),
        *((scope, None) for scope in NO_SCOPES),
    ],
)
def test_scopes(scope: object, scopes: tuple[str, ...] | None) -> None:
    """Scopes are read from a string or a list; anything else leaves them unchanged and keeps the pair."""
    assert pair({"access_token": "at", "scope": scope}).scopes == scopes
    assert pair({"access_token": "at", "scopes": scope}).scopes == scopes


@pytest.mark.parametrize(
    "name", ["refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"]
)
def test_refresh_expiry(name: str) -> None:
    """The refresh token's life is read under each name it has."""
    assert pair({"access_token": "at", name: "60"}).refresh_expires_at == SENT + timedelta(minutes=1)
    assert pair({"access_token": "at", name: 0}).refresh_expires_at is None


def test_form_encoded_answer() -> None:
    """A form-encoded answer and a form-encoded error are read."""
    how: dict[str, Any] = {"content_type": "application/x-www-form-urlencoded; charset=utf-8"}
    got = pair(b"access_token=ghu_1&expires_in=28800&refresh_token=ghr_1&scope=&token_type=bearer", **how)
    assert (got.access, got.refresh) == (Secret("ghu_1"), Secret("ghr_1"))
    assert got.expires_at == SENT + timedelta(hours=8)
    assert refused(b"error=bad_refresh_token&error_description=The+token", **how).blame is RefusalBlame.USER


def test_tokens_survive_bad_bytes() -> None:
    """A name in Latin-1 beside the tokens does not cost the tokens, nor does a byte-order mark."""
    assert pair(b'\xef\xbb\xbf{"access_token":"at","name":"Ren\xe9","refresh_token":"rt"}').refresh == Secret(
        "rt"
    )


def test_tokens_outweigh_an_error() -> None:
    """A pair that came is kept, whatever else the answer says."""
    assert pair({"access_token": "at", "refresh_token": "rt", "error": "invalid_grant"}).refresh == Secret(
        "rt"
    )
    assert pair({"access_token": "at", "error": None, "id_token": "not a JWT"}).access == Secret("at")


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"<html><body>Maintenance</body></html>", "text/html", "unreadable_answer"),
        (b"<a href='?x=1&access_token=at'>", "text/plain", "unreadable_answer"),
        (b"access_token=at", "text/html", "unreadable_answer"),
        (b"", "application/json", "empty_answer"),
        (b"  \n", "application/json", "empty_answer"),
        (b'<html><script>x = {\'a\': 1, "refresh_token": "Token"}', "text/html", "unreadable_answer"),
        (b"OK", "text/plain", "unreadable_answer"),
        (b'{"access_token":', "application/json", "unreadable_answer"),
        (b'["access_token","at"]', "application/json", "unreadable_answer"),
        (b"null", "application/json", "unreadable_answer"),
        (b"[" * 100_000, "application/json", "unreadable_answer"),
        (b'{"token_type":"Bearer"}', "application/json", "no_access_token"),
        (b'{"access_token":null,"refresh_token":""}', "application/json", "no_access_token"),
        (b'{"access_token":"a\\ud800"}', "application/json", "no_access_token"),
        (b'{"access_token":"a\\nb"}', "application/json", "no_access_token"),
    ],
)
def test_success_without_token(body: bytes, content_type: str, code: str) -> None:
    """A 2xx answer that gives no token leaves the outcome in doubt: the refresh token may be spent."""
    got = refused(body, content_type=content_type)
    assert got == Refused(RefusalBlame.IN_DOUBT, code, None, spent=True)
    # Google never spends one.
    assert not refused(body, content_type=content_type, provider=get("google")).spent


@pytest.mark.parametrize(
    ("status", "error", "blame", "code"),
    [
        (400, "invalid_grant", RefusalBlame.USER, "invalid_grant"),
        (401, "invalid_grant", RefusalBlame.USER, "invalid_grant"),
        (403, "invalid_grant", RefusalBlame.USER, "invalid_grant"),
        (200, "invalid_grant", RefusalBlame.USER, "invalid_grant"),
        (400, "interaction_required", RefusalBlame.USER, "interaction_required"),
        (400, "consent_required", RefusalBlame.USER, "consent_required"),
        (400, "login_required", RefusalBlame.USER, "login_required"),
        (401, "invalid_client", RefusalBlame.OPERATOR, "invalid_client"),
        (400, "invalid_client", RefusalBlame.OPERATOR, "invalid_client"),
        (200, "invalid_client", RefusalBlame.OPERATOR, "invalid_client"),
        (400, "unauthorized_client", RefusalBlame.OPERATOR, "unauthorized_client"),
        (400, "unsupported_grant_type", RefusalBlame.OPERATOR, "unsupported_grant_type"),
        (400, "invalid_scope", RefusalBlame.OPERATOR, "invalid_scope"),
        (400, "invalid_request", RefusalBlame.OPERATOR, "invalid_request"),
        (400, "temporarily_unavailable", RefusalBlame.NOBODY, "temporarily_unavailable"),
        (400, "slow_down", RefusalBlame.NOBODY, "slow_down"),
        (400, "server_error", RefusalBlame.NOBODY, "server_error"),
        (408, None, RefusalBlame.NOBODY, "http_408"),
        (420, None, RefusalBlame.NOBODY, "http_420"),
        (423, None, RefusalBlame.NOBODY, "http_423"),
        (425, None, RefusalBlame.NOBODY, "http_425"),
        (429, None, RefusalBlame.NOBODY, "http_429"),
        (429, "invalid_grant", RefusalBlame.NOBODY, "http_429"),
        (429, "too_many_requests", RefusalBlame.NOBODY, "too_many_requests"),
        (401, None, RefusalBlame.OPERATOR, "http_401"),
        (401, "teapot", RefusalBlame.OPERATOR, "teapot"),
        (400, "teapot", RefusalBlame.UNKNOWN, "teapot"),
        (404, None, RefusalBlame.UNKNOWN, "http_404"),
        (403, None, RefusalBlame.UNKNOWN, "http_403"),
        (302, None, RefusalBlame.UNKNOWN, "http_302"),
        (200, "teapot", RefusalBlame.UNKNOWN, "teapot"),
    ],
)
def test_blame(status: int, error: str | None, blame: RefusalBlame, code: str) -> None:
    """Each error code names who has to act, at any status that providers send it with; nothing was spent."""
    assert refused({"error": error} if error else {}, status) == (
        Refused(blame, code, None, spent=False)
        if error or status >= 300
        else Refused(RefusalBlame.IN_DOUBT, "no_access_token", None, spent=True)
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_server_failure(status: int) -> None:
    """A 5xx is in doubt where a rotating provider does not forgive without end, else it means to wait."""
    in_doubt = Refused(RefusalBlame.IN_DOUBT, f"http_{status}", None, spent=True)
    assert refused(b"Bad Gateway", status) == in_doubt
    for name in ("bitbucket", "okta", "xero"):
        assert refused(b"Bad Gateway", status, provider=get(name)) == in_doubt
    for forgiving in ("google", "azure-ad", "box"):
        got = refused(b"Bad Gateway", status, provider=get(forgiving))
        assert got == Refused(RefusalBlame.NOBODY, f"http_{status}", None, spent=False)


def test_server_failure_with_a_verdict() -> None:
    """What a failing server says of the grant or the client condemns neither; "not now" means nothing was spent."""
    for error in ("invalid_grant", "invalid_client"):
        assert refused({"error": error}, 500) == Refused(RefusalBlame.IN_DOUBT, "http_500", None, spent=True)
    assert refused({"error": "server_error"}, 500) == Refused(
        RefusalBlame.IN_DOUBT, "server_error", None, spent=True
    )
    assert refused({"error": "temporarily_unavailable"}, 503).blame is RefusalBlame.NOBODY


def test_a_token_in_a_failure_is_no_renewal() -> None:
    """Tokens are taken from a 2xx answer only."""
    assert refused({"access_token": "at"}, 400).blame is RefusalBlame.UNKNOWN


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("Sun, 15 Mar 2026 07:16:32 GMT", 120.0),
        ("Sun, 15 Mar 2026 07:00:00 GMT", 0.0),
        ("Sun, 15 Mar 2026 09:16:32 +0200", 120.0),
        ("999999", 3600.0),
        ("soon", None),
        ("", None),
        ("NaN", None),
        ("Sun, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """``Retry-After`` is read as seconds or as a date, whatever its case, and cut to an hour."""
    assert refused({}, 429, retry_after=value).retry_after == seconds
    assert refused({}, 503, RETRY_AFTER=value).retry_after == seconds


def test_no_answer() -> None:
    """A request that was never sent blames nobody; one that may have arrived is in doubt."""
    assert unreachable("not_sent", GENERIC, "ConnectError") == Refused(RefusalBlame.NOBODY, "connecterror")
    assert unreachable("sent", GENERIC, "read timeout") == Refused(
        RefusalBlame.IN_DOUBT, "read_timeout", spent=True
    )
    assert unreachable("sent", get("google"), "x") == Refused(RefusalBlame.IN_DOUBT, "x", spent=False)
    assert len(unreachable("sent", GENERIC, "x" * 500).code) == 64


wild_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["invalid_grant", "at"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        *(
            "access_token",
            "refresh_token",
            "expires_in",
            "scope",
            "scopes",
            "error",
            "suberror",
            "error_codes",
        ),
        *("error_description", "status", "ok", "authed_user", "refresh_token_expires_in", "code", "type"),
    ]
)
wild_bodies = (
    st.binary()
    | st.dictionaries(fields, wild_json).map(lambda answer: json.dumps(answer).encode())
    | st.dictionaries(fields, st.text()).map(
        lambda answer: "&".join(f"{name}={value}" for name, value in answer.items()).encode(errors="replace")
    )
)
wild_headers = st.dictionaries(
    st.sampled_from(["Content-Type", "Retry-After", "retry-after", "X"]),
    st.text()
    | st.sampled_from(["text/html", "application/x-www-form-urlencoded", "Fri, 31 Dec 9999 23:59:59 GMT"]),
)


@given(st.sampled_from(names()), st.integers(100, 999), wild_headers, wild_bodies)
def test_any_answer(name: str, status: int, headers: dict[str, str], body: bytes) -> None:
    """Any answer is read without an exception, and a renewal always has a token."""
    outcome = get(name).read(status, headers, body, sent_at=SENT)
    if isinstance(outcome, Renewed):
        assert outcome.pair.access or outcome.pair.refresh
        assert outcome.pair.refresh is None or outcome.pair.refresh.reveal().strip()
        assert outcome.pair.expires_at is None or outcome.pair.expires_at > SENT
        if outcome.pair.access:
            outcome.pair.access.reveal().encode("ascii")
    else:
        assert outcome.code.replace("_", "").isalnum()
        assert outcome.code.isascii()
        assert len(outcome.code) <= 64
        assert outcome.retry_after is None or 0 <= outcome.retry_after <= 3600


@given(st.sampled_from(names()), st.sampled_from([200, 400, 401, 403, 429, 500]), st.data())
def test_nothing_of_an_answer_is_told(name: str, status: int, data: st.DataObject) -> None:
    """Whatever field a token turns up in, no refusal repeats it."""
    answer: dict[str, object] = {
        field: data.draw(
            st.sampled_from([CANARY, [CANARY], {"code": CANARY, "type": CANARY, "message": CANARY}])
        )
        for field in data.draw(st.sets(fields))
        if field not in ("access_token", "authed_user")
    }
    if data.draw(st.booleans()):
        answer["error"] = data.draw(st.sampled_from(["invalid_grant", "invalid_client", "server_error"]))
    header = {"Retry-After": CANARY, "Content-Type": CANARY}
    body = json.dumps(answer).encode()
    outcome = get(name).read(status, header, body, sent_at=SENT, spent=Secret(CANARY))
    assert isinstance(outcome, Refused)
    assert CANARY.lower() not in f"{outcome!r} {outcome} {outcome.code}".lower()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"message": "Bad Request", "errors": [{"resource": "RefreshToken", "code": "invalid"}]}, "invalid"),
        ({"errors": [{"errorType": "expired_token", "message": "Refresh token expired"}]}, "expired_token"),
        ({"error": 1003, "message": "refresh token expired"}, "1003"),
        ({"code": 40102, "msg": "no such grant"}, "40102"),
        ({"errors": ["grant_gone"]}, "grant_gone"),
        ({"message": "Your session is over."}, "your_session_is_over"),
        ({"error": {"code": "ERR1234", "message": "over"}}, "err1234"),
        ({"data": {"error_code": 10010}, "message": "error"}, "10010"),
        ({}, "http_400"),
        (None, "http_400"),
        ({"message": "the token abc123def456 of this user is not known to us any more, sorry"}, "http_400"),
        ({"error": "rt_9f3b2c4d5e6f708192a3b4c5"}, "http_400"),
    ],
)
def test_a_providers_own_code_is_shown(answer: object, code: str) -> None:
    """The operator is shown the code that the provider gave, wherever it stands, where it is a short one."""
    assert refused(answer, 400).code == code


@pytest.mark.parametrize("code", ["zz-Abcde", "abcdx", "Abcd-zz", "zz-abc-de"])
def test_no_part_of_the_spent_token_is_shown(code: str) -> None:
    """Neither the last letters of a code, nor a short word of it, tell of the token."""
    body = json.dumps({"error": code}).encode()
    outcome = GENERIC.read(400, {}, body, sent_at=SENT, spent=Secret("rt1xAbcdeabcdx9"))
    assert isinstance(outcome, Refused)
    assert outcome.code == "http_400"


@example("000:000:")
@example("!!!!!!!!")
@example("0:0:0:0:")
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=8, max_size=40))
def test_a_shown_code_is_no_part_of_the_spent_token(token: str) -> None:
    """A refresh token that the provider repeats as its code is not shown, however it is written."""
    body = json.dumps({"error": token, "message": f"{token} is over"}).encode()
    outcome = GENERIC.read(400, {}, body, sent_at=SENT, spent=Secret(token))
    assert isinstance(outcome, Refused)
    assert outcome.code == "http_400" or outcome.code in BLAMES


@pytest.mark.parametrize(
    ("description", "blame", "code"),
    [
        ("token request is already being processed", RefusalBlame.NOBODY, "temporarily_unavailable"),
        ("The refresh token was not issued to this client", RefusalBlame.OPERATOR, "other_client"),
        ("AADSTS50196: The server terminated an operation", RefusalBlame.NOBODY, "temporarily_unavailable"),
        ("You have made too many requests continuously.", RefusalBlame.NOBODY, "temporarily_unavailable"),
        ("API rate limit exceeded", RefusalBlame.NOBODY, "temporarily_unavailable"),
        ("Throttling.User", RefusalBlame.NOBODY, "temporarily_unavailable"),
        ("Request is being processed, try again", RefusalBlame.NOBODY, "temporarily_unavailable"),
        (
            "The provided authorization grant or refresh token is invalid, expired, revoked, does not match the "
            "redirection URI used in the authorization request, or was issued to another client.",
            RefusalBlame.USER,
            "invalid_grant",
        ),
    ],
)
def test_a_description_softens_a_verdict(description: str, blame: RefusalBlame, code: str) -> None:
    """An ``invalid_grant`` that passes, or that is the operator's, kills nobody."""
    outcome = refused({"error": "invalid_grant", "error_description": description}, 400)
    assert (outcome.blame, outcome.code) == (blame, code)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"errcode": 40030, "errmsg": "invalid refresh_token, rid: 6123"}, "40030"),
        ({"errcode": "40030"}, "40030"),
        ({"code": 20037, "msg": "refresh token invalid"}, "20037"),
        ({"code": -1, "data": {}}, "unrecognised_error"),
        ({"success": False, "error_code": "RT_GONE", "message": "it has ended"}, "rt_gone"),
        ({"ok": False}, "unrecognised_error"),
        ({"status": "error", "status_code": 401, "message": "Session over"}, "session_over"),
        ({"data": {"error_code": 10010, "description": "It has ended"}, "message": "error"}, "10010"),
        ({"status": "FAILED", "reason": "grant.gone"}, "grant_gone"),
    ],
)
def test_a_refusal_under_a_success_status_is_one(answer: object, code: str) -> None:
    """An answer that says it failed is no lost one: its words are shown, and the refresh token is not in doubt."""
    assert refused(answer) == Refused(RefusalBlame.UNKNOWN, code)


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 0, "msg": "ok"},
        {"code": 200},
        {"code": "1"},
        {"success": True},
        {"status": "ok"},
        {"ret": "x"},
    ],
)
def test_an_answer_that_says_no_failure_is_in_doubt(answer: object) -> None:
    """Without a token and without a sign of failure nobody knows whether the refresh token was spent."""
    assert refused(answer) == Refused(RefusalBlame.IN_DOUBT, "no_access_token", None, spent=True)


@pytest.mark.parametrize(
    ("code", "blame"),
    [("conflict_error", RefusalBlame.NOBODY), ("validation_error", RefusalBlame.UNKNOWN)],
)
def test_notions_errors(code: str, blame: RefusalBlame) -> None:
    """A conflict at Notion passes; other words of its API are judged as anybody's."""
    body = {"object": "error", "status": 409, "code": code, "message": "Please try again."}
    assert refused(body, 409, provider=get("notion")) == Refused(blame, code)


@pytest.mark.parametrize(
    ("description", "blame"),
    [("ip restricted", RefusalBlame.OPERATOR), ("retry your request", RefusalBlame.NOBODY)],
)
def test_salesforce_refuses_addresses_in_words_for_dead_grants(description: str, blame: RefusalBlame) -> None:
    """An address that is not listed costs no consent."""
    body = {"error": "invalid_grant", "error_description": description}
    assert refused(body, 400, provider=get("salesforce")).blame is blame


@pytest.mark.parametrize("body", [b'callback( {"error":100016,"msg":"over"} );\n', b'a.b({"error":100016})'])
def test_a_refusal_in_a_call_is_read(body: bytes) -> None:
    """JSONP is read as the JSON in it."""
    assert refused(body, content_type="text/html") == Refused(RefusalBlame.UNKNOWN, "100016")
