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

# Besides the hop-by-hop ones. Host, Content-Length and Expect are set anew.
_DROPPED_FROM_REQUESTS = frozenset(
    {"host", "content-length", "expect", "accept-encoding", "max-forwards"}
    # the browser's, which do not concern the provider
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
    # With these, an answer that repeats the token could come in parts, or as a difference (RFC 3229): the token would
    # not be found in it.
    | {"range", "if-range", "request-range", "a-im"}
    # ids and traces of the operator's, which do not concern the provider
    | {"traceparent", "tracestate", "baggage", "x-request-id"}
)
_DROPPED_REQUEST_PATTERN = re.compile(
    r"sec-.*|proxy-.*|cf-.*|x-forwarded.*|x-original-.*|x-rewrite-.*|x-envoy-.*|x-amzn?-.*|access-control-.*|x-b3-.*"
    # where the request came from, as gateways say it
    r"|.*client-?ip|x-.*-ip|x-remote-.*|x-appengine-.*|x-arr-.*"
    # another method, path or host; files in place of an answer (Rack's Sendfile)
    r"|.*method.*|.*override.*|x-http-verb|x-accel-.*|x-sendfile.*"
    # credentials, and headers that act for somebody else
    r"|.*token.*|.*api-?key.*|.*subscription-?key|.*secret.*|.*password.*|.*credential.*|.*authorization.*"
    r"|.*session.*|.*csrf.*|x-auth.*|.*-client-cert.*|x-ms-client-principal.*|x-goog-(?:iap|authenticated)-.*"
    r"|.*impersonat.*|.*on-?behalf-?of.*|dropbox-api-select-.*"
)

_DROPPED_FROM_RESPONSES = frozenset(
    {"content-length", "content-encoding", "content-range", "accept-ranges", "location", "content-location"}
    # "Refresh" can send a browser elsewhere. The others apply to the whole origin, which is the vault's.
    | {"refresh", "clear-site-data", "strict-transport-security", "expect-ct", "sourcemap"}
    | {"pragma", "expires", "age", "nel", "report-to", "reporting-endpoints", "server", "via"}
    | {"x-content-type-options", "x-request-id", "traceresponse", "date", "x-frame-options", "vary"}
    | {"authorization", "dpop-nonce", "forwarded", "host", "traceparent", "tracestate", "cache-tag", "xkey"}
    # These apply to a whole origin, or allow a page something.
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
    # By these, a cache of the operator's would keep one user's answer for others (RFC 9213), and a server in front of
    # the API would answer with a file or another URL of its own.
    r"|.*cache-control|surrogate-.*|edge-.*|x-accel-.*|x-sendfile.*|x-lighttpd-.*|x-litespeed-.*|x-reproxy-.*"
)

# The provider's answer comes from the vault's origin, so none of its scripts may run.
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
    """Return the headers without these names and hop-by-hop ones.

    Args:
        names: in lower case.
        pattern: matches further names to leave out.
    """
    dropped = _named_by_connection(headers) | _HOP_BY_HOP | names
    kept = []
    for name, value in headers:
        lower = name.lower()
        plain = lower.replace("_", "-")  # many servers take both for the same name (CGI)
        if not ({lower, plain} & dropped or pattern.fullmatch(plain)):
            kept.append((lower, value))
    return kept


def request_headers(incoming: Headers, token: str) -> Headers:
    """Return the headers of the request to the provider.

    Args:
        incoming: the caller's.
        token: the user's access token at the provider.
    """
    kept = _without(incoming, _DROPPED_FROM_REQUESTS, _DROPPED_REQUEST_PATTERN)
    # Not compressed, so that the answer can be searched for the token.
    return [*kept, ("accept-encoding", "identity"), ("authorization", f"Bearer {token}")]


def response_headers(upstream: Headers, location: str | None) -> Headers:
    """Return the headers of the answer to the caller.

    Args:
        upstream: the provider's.
        location: the rewritten ``Location``; None to send none.
    """
    kept = _without(upstream, _DROPPED_FROM_RESPONSES, _DROPPED_RESPONSE_PATTERN)
    own = [*_OWN_RESPONSE_HEADERS, *([("location", location)] if location is not None else [])]
    return [*kept, *own]


def rewrite_location(value: str, requested: str, base_url: str, prefix: str) -> str | None:
    """Return a redirect's target as a path of the proxy.

    None if it is at another host, or outside the base URL.

    Args:
        value: the provider's ``Location``.
        requested: the whole URL that was called.
        base_url: of the provider's API, without a slash at its end.
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
    """Resolve a redirect within the same origin.

    Raises:
        ValueError: it is no URL, or of another origin.
    """
    if not value.isascii() or not value.isprintable() or "\\" in value or not value or value != value.strip():
        raise ValueError("the location has characters that no URL has")
    target = urlsplit(urljoin(requested, value))
    if "@" in target.netloc or _origin(target) != _origin(base):
        raise ValueError("the location is of another origin")
    return target


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)
