"""Where an issuer's keys may be, and which of a set are used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm

from tests.support.dpop import KEY
from tests.support.served_api import Issuer
from worker.api.jwks import MAX_KEYS, _key_set_url, _read

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
        {"jwks_uri": "https://keys.example"},
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


RSA = Issuer().jwks["keys"][0]
EC: dict[str, Any] = {**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k2"}


def read(*entries: object) -> dict[str, tuple[str, str | None]]:
    """The keys of a set, with their kind and algorithm."""
    found = _read(json.dumps({"keys": entries}).encode())
    return {kid: (key.type, key.algorithm) for kid, key in found.items()}


def test_a_key_may_be_for_one_algorithm() -> None:
    """Where the issuer says so, and says it in words."""
    assert read(RSA, EC) == {"k1": ("RSA", "RS256"), "k2": ("EC", None)}
    assert read({**RSA, "alg": ["RS256"]}) == {"k1": ("RSA", None)}


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": "x", "kid": "k1"},
        {**RSA, "use": "enc"},
        {**RSA, "kid": None},
        {**RSA, "kid": 7},
        {**RSA, "n": "?"},
        {**RSA, "n": None},
        {**EC, "crv": "P-999"},
        {**EC, "x": EC["y"]},
    ],
)
def test_a_key_that_verifies_nothing_hides_no_other(entry: object) -> None:
    """It is left out, and those behind it are used."""
    assert read(entry, {**EC, "kid": "last"}) == {"last": ("EC", None)}


def test_keys_are_bounded() -> None:
    """A set of thousands costs no more than one of some."""
    entries = [{**EC, "kid": f"{number}"} for number in range(MAX_KEYS + 1)]
    assert list(read(*entries)) == [f"{number}" for number in range(MAX_KEYS)]
