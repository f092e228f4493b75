"""The address of Redis, for Celery."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit


def verify_certificate(url: str) -> str:
    """Have Celery verify the server's certificate over TLS.

    By itself kombu takes any certificate, and sends the password to whoever answers. What the URL says stands:
    ``ssl_cert_reqs=none`` is the operator's word.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    query = dict(parse_qsl(parts.query))
    verified = query.setdefault("ssl_cert_reqs", "required").lower() not in ("none", "cert_none")
    if verified:
        query.setdefault("ssl_check_hostname", "true")
    return parts._replace(query=urlencode(query)).geturl()
