"""Which headers pass the proxy, in both directions.

Pure. Sources: RFC 9110, 7.6.1 (hop-by-hop); RFC 6265; RFC 7239; Fetch (``Sec-``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urljoin, urlsplit

from worker.proxy_rules import encode_path, normalize_path

Headers = list[tuple[str, str]]

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)

# Beside the hop-by-hop ones. The framing (host, content-length, expect) is made anew.
_DROPPED_FROM_REQUESTS = frozenset(
    {"host", "content-length", "expect", "accept-encoding", "max-forwards"}
    # of the browser, which the provider has no business with
    | {"origin", "referer", "cookie", "cookie2", "dnt", "priority"}
    # credentials, and headers that act for somebody else
    | {"dpop", "www-authenticate", "sudo", "x-sudo", "signature", "signature-input"}
    | {"as-user", "x-as-user", "act-as", "x-act-as", "remote-user", "client-cert", "client-cert-chain"}
    # where the request came from, or was meant to go
    | {
        "forwarded",
        "via",
        "from",
        "destination",
        "x-host",
        "x-url",
        "x-uri",
        "x-scheme",
        "x-proto",
        "x-url-scheme",
    }
    | {"front-end-https", "cdn-loop", "early-data"}
    # A token that the provider echoes could be read in parts, or packed (RFC 3229), neither of which looks like it.
    | {"range", "if-range", "request-range", "a-im"}
    # a request id is our own, and traces of the operator's stay with the operator
    | {"traceparent", "tracestate", "baggage", "x-request-id"}
)
_DROPPED_REQUEST_PATTERN = re.compile(
    r"sec-.*|proxy-.*|cf-.*|x-forwarded.*|x-original-.*|x-rewrite-.*|x-envoy-.*|x-amzn?-.*|access-control-.*|x-b3-.*"
    # where the request came from, as gateways say it
    r"|.*client-?ip|x-.*-ip|x-remote-.*|x-appengine-.*|x-arr-.*"
    # another method, path or host; files in place of an answer (Rack's Sendfile)
    r"|.*method.*|.*override.*|x-http-verb|x-accel-.*|x-sendfile.*"
    # credentials, and somebody else to act for
    r"|.*token.*|.*api-?key.*|.*subscription-?key|.*secret.*|.*password.*|.*credential.*|.*authorization.*"
    r"|.*session.*|.*csrf.*|x-auth.*|.*-client-cert.*|x-ms-client-principal.*|x-goog-(?:iap|authenticated)-.*"
    r"|.*impersonat.*|.*on-?behalf-?of.*|dropbox-api-select-.*"
)

_DROPPED_FROM_RESPONSES = frozenset(
    {"content-length", "content-encoding", "content-range", "accept-ranges", "location", "content-location"}
    # "Refresh" and "Link" can send a browser elsewhere; the others speak for the whole origin, which is ours.
    | {"refresh", "clear-site-data", "strict-transport-security", "expect-ct", "sourcemap"}
    | {"pragma", "expires", "age", "nel", "report-to", "reporting-endpoints", "server", "via"}
    | {"x-content-type-options", "x-request-id", "traceresponse", "date", "x-frame-options", "vary"}
    | {"authorization", "dpop-nonce", "forwarded", "host", "traceparent", "tracestate", "cache-tag", "xkey"}
    # What a browser applies to a whole origin, or lets a page do.
    | {
        "accept-ch",
        "critical-ch",
        "origin-agent-cluster",
        "origin-trial",
        "timing-allow-origin",
        "speculation-rules",
    }
    | {"use-as-dictionary", "no-vary-search", "observe-browsing-topics", "shared-storage-write"}
    | {"activate-storage-access", "supports-loading-mode", "x-sourcemap", "x-webkit-csp", "p3p"}
)
_DROPPED_RESPONSE_PATTERN = re.compile(
    r"access-control-.*|proxy-.*|x-forwarded.*|.*cookie.*|.*authenticat.*|set-.*|sec-.*|secure-session-.*|alt-.*"
    r"|cross-origin-.*|attribution-reporting-.*|ad-auction-.*|service-worker-.*|.*-policy(?:-report-only)?|public-key-.*"
    # Caches of the operator's that would keep one user's answer for others (RFC 9213), and servers in front of the API
    # that would answer with a file or another URL of theirs.
    r"|.*cache-control|surrogate-.*|edge-.*|x-accel-.*|x-sendfile.*|x-lighttpd-.*|x-litespeed-.*|x-reproxy-.*"
)

# The provider's answer is shown on the vault's own origin: no script of it may run there.
_OWN_RESPONSE_HEADERS = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "sandbox; default-src 'none'"),
)


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    """Return the headers that ``Connection`` makes hop-by-hop."""
    return {
        option.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for option in value.split(",")
    }


def _without(headers: Headers, names: frozenset[str], pattern: re.Pattern[str]) -> Headers:
    """Leave out these names, and those that match.

    What is between two hosts alone is left out as well.
    """
    dropped = _named_by_connection(headers) | _HOP_BY_HOP | names
    kept = []
    for name, value in headers:
        lower = name.lower()
        plain = lower.replace("_", "-")  # as many servers read an underscore (CGI)
        if not ({lower, plain} & dropped or pattern.fullmatch(plain)):
            kept.append((lower, value))
    return kept


def request_headers(incoming: Headers, token: str) -> Headers:
    """Return a caller's headers as the provider gets them.

    Args:
        token: the provider's access token.
    """
    kept = _without(incoming, _DROPPED_FROM_REQUESTS, _DROPPED_REQUEST_PATTERN)
    # Not compressed: what is searched for the token has to be readable.
    return [*kept, ("accept-encoding", "identity"), ("authorization", f"Bearer {token}")]


def response_headers(upstream: Headers, location: str | None) -> Headers:
    """Return a provider's headers as the caller gets them.

    Args:
        location: the rewritten ``Location``; None where there is none to pass on.
    """
    kept = _without(upstream, _DROPPED_FROM_RESPONSES, _DROPPED_RESPONSE_PATTERN)
    own = [*_OWN_RESPONSE_HEADERS, *([("location", location)] if location is not None else [])]
    return [*kept, *own]


def rewrite_location(value: str, requested: str, base_url: str, prefix: str) -> str | None:
    """Return a redirect as a path of the proxy.

    None where it leads to another host, or out of the base URL.

    Args:
        value: the provider's ``Location``.
        requested: the whole URL that was asked for.
        base_url: of the proxied API, without a slash at its end.
        prefix: the proxy's own path of this connection, without a slash at its end.
    """
    base = urlsplit(base_url)
    try:
        target = _same_origin(value, requested, base)
        path = encode_path(normalize_path((target.path or "/").encode()))
    except ValueError:
        return None
    if base.path and not path.startswith(f"{base.path}/"):
        return None
    query = f"?{target.query}" if target.query else ""
    return f"{prefix}{path.removeprefix(base.path)}{query}"


def _same_origin(value: str, requested: str, base: SplitResult) -> SplitResult:
    """Resolve a redirect, or raise ValueError."""
    if not value.isascii() or not value.isprintable() or "\\" in value or not value or value != value.strip():
        raise ValueError("the location has characters that no URL has")
    target = urlsplit(urljoin(requested, value))
    if "@" in target.netloc or _origin(target) != _origin(base):
        raise ValueError("the location is of another origin")
    return target


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)
