"""Proofs of possession as callers make them (RFC 9449)."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC: dict[str, Any] = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}


def digest(text: str) -> str:
    """The SHA-256 of a text, as JOSE writes it."""
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def thumbprint(key: dict[str, Any]) -> str:
    """The thumbprint of a public key (RFC 7638)."""
    members = {name: key[name] for name in _THUMBPRINT_MEMBERS[key["kty"]]}
    return digest(json.dumps(members, separators=(",", ":")))


def sign_proof(
    claims: dict[str, Any], header: dict[str, Any] | None = None, key: Any = KEY, algorithm: str = "ES256"
) -> str:
    """Sign a proof; claims that are None are left out."""
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(
        given, key, algorithm=algorithm, headers={"typ": "dpop+jwt", "jwk": PUBLIC, **(header or {})}
    )
