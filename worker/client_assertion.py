"""Signed assertions that authenticate a client (RFC 7523, section 2.2)."""

from __future__ import annotations

import uuid
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from token_vault.secret import Secret

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Auth0 accepts five minutes and advises one; an assertion is used once and at once.
ASSERTION_LIFETIME = timedelta(seconds=60)


def sign_assertion(
    client_id: str,
    private_key: Secret,
    *,
    audience: str,
    now: datetime,
    key_id: str | None = None,
    certificate: str | None = None,
    issuer: str | None = None,
) -> str:
    """Return a new assertion; each is used once.

    Args:
        private_key: RSA or EC P-256, unencrypted, in PEM.
        audience: the authorization server, by the name that it expects.
        now: the current time, with a time zone.
        key_id: the key's id at the server, if it needs one.
        certificate: in PEM; Microsoft Entra ID finds the key by its thumbprints.
        issuer: if it is not the client's id; Revolut expects the host of the redirect URI.

    Raises:
        ValueError: the key or the certificate cannot be parsed.
    """
    key, algorithm = signing_key(private_key)
    claims = {
        "iss": issuer or client_id,
        "sub": client_id,
        "aud": audience,
        "jti": str(uuid.uuid4()),
        "iat": int(now.timestamp()),
        "nbf": int(now.timestamp()),
        "exp": int((now + ASSERTION_LIFETIME).timestamp()),
    }
    headers = {"kid": key_id} if key_id else {}
    return jwt.encode(claims, key, algorithm, headers=headers | thumbprints(certificate))


def signing_key(pem: Secret) -> tuple[RSAPrivateKey | EllipticCurvePrivateKey, str]:
    """Return a key and its signature algorithm.

    Raises:
        ValueError: it is not an unencrypted RSA or EC P-256 private key in PEM.
    """
    try:
        key = load_pem_private_key(pem.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
        key = None
    if isinstance(key, RSAPrivateKey):
        return key, "RS256"
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256"
    raise ValueError("not an unencrypted RSA or EC P-256 private key in PEM")


def thumbprints(certificate: str | None) -> dict[str, str]:
    """Return header fields that name a certificate (RFC 7515, 4.1.7 and 4.1.8).

    Entra ID reads ``x5t#S256`` since 2024; its national clouds may still need ``x5t``.

    Raises:
        ValueError: it is not a certificate in PEM.
    """
    if certificate is None:
        return {}
    found = load_pem_x509_certificate(certificate.encode())

    def thumbprint(algorithm: HashAlgorithm) -> str:
        return urlsafe_b64encode(found.fingerprint(algorithm)).rstrip(b"=").decode()

    return {"x5t": thumbprint(SHA1()), "x5t#S256": thumbprint(SHA256())}  # noqa: S303  # the standard's name
