"""Where an issuer's configuration may say that its keys are."""

from __future__ import annotations

import json

import pytest

from worker.api.jwks import _key_set_url

ISSUER, FOUND_AT = "https://a.example/", "https://a.example/.well-known/ssf-configuration"


@pytest.mark.parametrize(
    ("url", "found_at"),
    [
        ("https://keys.example/jwks", FOUND_AT),
        ("http://127.0.0.1:1/jwks", "http://127.0.0.1:1/.well-known/ssf-configuration"),
    ],
)
def test_public_keys_are_taken(url: str, found_at: str) -> None:
    """On another host as well; on loopback only where the configuration is there."""
    body = json.dumps({"issuer": "https://a.example", "jwks_uri": url}).encode()
    assert _key_set_url(body, ISSUER, found_at) == url


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 7},
        {"issuer": "https://b.example", "jwks_uri": "https://keys.example"},
        {"issuer": ISSUER, "jwks_uri": "http://keys.example"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER, "jwks_uri": "https://169.254.169.254/"},
        {"issuer": ISSUER, "jwks_uri": "https://10.0.0.1/"},
        {"issuer": ISSUER, "jwks_uri": "https://[::1]/"},
        {"issuer": ISSUER, "jwks_uri": "http://localhost/"},
    ],
)
def test_others_are_not(document: object) -> None:
    """Another issuer's configuration, plain HTTP, and addresses inside the operator's network."""
    with pytest.raises(ValueError, match=r"configuration|key set"):
        _key_set_url(json.dumps(document).encode(), ISSUER, FOUND_AT)
