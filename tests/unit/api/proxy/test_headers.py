"""Which headers pass the proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.proxy.headers import request_headers, response_headers, rewrite_location

TOKEN = "ya29.the-token-of-the-provider"
BASE = "https://api.example/base"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "authorization",
        "Proxy-Authorization",
        "Cookie",
        "Cookie2",
        "DPoP",
        "Host",
        "Origin",
        "Referer",
        "Content-Length",
        "Transfer-Encoding",
        "TE",
        "Trailer",
        "Upgrade",
        "Connection",
        "Keep-Alive",
        "Expect",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X_Forwarded_For",
        "X-Real-IP",
        "Via",
        "CF-Connecting-IP",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-HTTP-Method",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Api-Key",
        "X-Goog-Api-Key",
        "PRIVATE-TOKEN",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "Sec-WebSocket-Key",
        "Range",
        "If-Range",
        "A-IM",
        "Accept-Encoding",
        "traceparent",
        "X-CSRF-Token",
        "Sudo",
        "X-HTTP-Verb",
        "X-Tunneled-Method",
        "X-RestLi-Method",
        "X_HTTP_Method_Override",
        "X-Host-Override",
        "X-HTTP-Path-Override",
        "X-Rewrite-Path",
        "X-Sendfile-Type",
        "X-Accel-Mapping",
        "As-User",
        "Impersonate-User",
        "X-Impersonate-User",
        "X-Zendesk-On-Behalf-Of",
        "Dropbox-API-Select-User",
        "X-Auth-User",
        "Remote-User",
        "X-MS-Client-Principal",
        "X-Goog-IAP-JWT-Assertion",
        "Client-Cert",
        "X-SSL-Client-Cert",
        "Ocp-Apim-Subscription-Key",
        "X-Password",
        "HTTP2-Settings",
        "CDN-Loop",
        "Early-Data",
        "X-Scheme",
        "X-Originating-IP",
        "X-Azure-ClientIP",
        "X-Remote-Addr",
    ],
)
def test_a_callers_header_is_dropped(name: str) -> None:
    """Hop-by-hop, cookie, forwarding, credential and override headers stay with us."""
    sent = request_headers([(name, "from-the-caller")], TOKEN)
    assert "from-the-caller" not in dict(sent).values()
    assert dict(sent) == {"accept-encoding": "identity", "authorization": f"Bearer {TOKEN}"}


def test_headers_of_the_call_itself_pass() -> None:
    """What the API needs to understand the call is forwarded."""
    kept = [
        ("content-type", "application/json"),
        ("if-match", '"1"'),
        ("accept", "*/*"),
        ("prefer", "return=minimal"),
        ("idempotency-key", "1"),
        ("x-goog-user-project", "p"),
        ("consistencylevel", "eventual"),
        ("notion-version", "2022-06-28"),
        ("x-correlation-id", "1"),
        ("user-agent", "app"),
    ]
    assert request_headers(kept, TOKEN)[: len(kept)] == kept


def test_headers_of_the_answer_itself_pass() -> None:
    """What the caller needs to understand the answer reaches it."""
    kept = [
        ("content-type", "application/json"),
        ("content-disposition", "attachment"),
        ("etag", "1"),
        ("link", "</a>; rel=next"),
        ("last-modified", "x"),
        ("retry-after", "1"),
        ("x-ratelimit-remaining", "5"),
        ("odata-version", "4.0"),
        ("preference-applied", "x"),
    ]
    assert response_headers(kept, None)[: len(kept)] == kept


def test_headers_named_by_connection_are_dropped() -> None:
    """``Connection: close, X-Secret-Hop`` makes that header hop-by-hop in both directions."""
    headers = [
        ("Connection", "close, Prefer"),
        ("connection", "ETag"),
        ("Prefer", "a"),
        ("ETag", "b"),
        ("Accept", "c"),
    ]
    assert [name for name, _ in request_headers(headers, TOKEN)] == [
        "accept",
        "accept-encoding",
        "authorization",
    ]
    assert {"prefer", "etag"}.isdisjoint(dict(response_headers(headers, None)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["Authorization", "AUTHORIZATION", "X-a", "Host"]), st.text(max_size=5))
    )
)
def test_one_authorization_is_sent(headers: list[tuple[str, str]]) -> None:
    """The provider sees one ``Authorization``, ours."""
    sent = request_headers(headers, TOKEN)
    assert [value for name, value in sent if name == "authorization"] == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie",
        "Set-Cookie2",
        "WWW-Authenticate",
        "Connection",
        "Transfer-Encoding",
        "Content-Length",
        "Refresh",
        "Access-Control-Allow-Origin",
        "Clear-Site-Data",
        "Strict-Transport-Security",
        "Alt-Svc",
        "Location",
        "Content-Security-Policy",
        "Service-Worker-Allowed",
        "Cache-Control",
        "Content-Location",
        "Authorization",
        "CDN-Cache-Control",
        "Cloudflare-CDN-Cache-Control",
        "Surrogate-Control",
        "Surrogate-Key",
        "Edge-Control",
        "X-LiteSpeed-Cache-Control",
        "X-Accel-Redirect",
        "X-Accel-Expires",
        "X-Sendfile",
        "X-Lighttpd-Send-File",
        "X-Reproxy-URL",
        "X-Set-Cookie",
        "Set_Cookie",
        "Set-Login",
        "Access_Control_Allow_Origin",
        "Authentication-Control",
        "Secure-Session-Registration",
        "Sec-Session-Registration",
        "Accept-CH",
        "Permissions-Policy",
        "Cross-Origin-Opener-Policy",
        "Speculation-Rules",
        "Origin-Trial",
        "Use-As-Dictionary",
        "Alt-Used",
        "traceparent",
    ],
)
def test_a_providers_header_is_dropped(name: str) -> None:
    """Cookies, challenges and what speaks for a whole origin do not reach the caller."""
    assert "from-the-provider" not in dict(response_headers([(name, "from-the-provider")], None)).values()


def test_answers_run_nowhere_and_are_kept_nowhere() -> None:
    """A provider's page is neither run on the vault's origin nor cached."""
    sent = dict(response_headers([("Content-Type", "text/html")], None))
    assert sent["content-type"] == "text/html"
    assert sent["cache-control"] == "no-store"
    assert sent["content-security-policy"].startswith("sandbox")
    assert sent["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://api.example/base/b?c=d", "/v1/proxy/g/b?c=d"),
        ("/base/b", "/v1/proxy/g/b"),
        ("b", "/v1/proxy/g/b"),
        ("HTTPS://API.example:443/base/b", "/v1/proxy/g/b"),
        ("/other", None),
        ("/basement", None),
        ("/base/../other", "refused-or-none"),
        ("https://evil.example/base/b", None),
        ("//evil.example/base/b", None),
        ("https://api.example.evil.example/base/b", None),
        ("https://api.example@evil.example/base/b", None),
        ("https://user@api.example/base/b", None),
        ("http://api.example/base/b", None),
        ("https://api.example:8443/base/b", None),
        ("https://api.example:x/base/b", None),
        ("\\\\evil.example/base", None),
        ("/base\\..\\b", None),
        ("/base/%2e%2e/admin", None),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        (" https://api.example/base/b", None),
        ("https://api.example/base/b\r\nx: y", None),
        ("https://[/base", None),
        ("", None),
    ],
)
def test_a_redirect_stays_within_the_proxy(location: str, expected: str | None) -> None:
    """A redirect to the same API leads through the proxy; any other is cut."""
    found = rewrite_location(location, f"{BASE}/a", BASE, "/v1/proxy/g")
    assert found == (None if expected == "refused-or-none" else expected)


def test_the_usual_port_of_plain_http_is_80() -> None:
    """An API on loopback is the same with its port and without."""
    base = "http://127.0.0.1/base"
    assert rewrite_location("http://127.0.0.1:80/base/b", f"{base}/a", base, "/v1/proxy/g") == "/v1/proxy/g/b"
    assert dict(response_headers([], "/v1/proxy/g/b"))["location"] == "/v1/proxy/g/b"
    assert "location" not in dict(response_headers([], None))


@given(st.text(max_size=30))
def test_no_redirect_leaves_the_proxy(location: str) -> None:
    """Whatever a provider sends as ``Location``, what is passed on is a path of ours."""
    found = rewrite_location(location, f"{BASE}/a", BASE, "/v1/proxy/g")
    assert found is None or found.startswith("/v1/proxy/g/")
