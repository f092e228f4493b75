"""The keys that the tenant signs access tokens with, and its key set.

Source: Auth0 documentation, "JSON Web Key Sets" and "Access Token Profiles".
"""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

Json = dict[str, Any]

AUDIENCE = "https://vault.example"
LIFE = 300  # seconds


class SigningKeys:
    """Keys by id, the current ones first made when they are needed."""

    def __init__(self, base_url: str) -> None:
        self._issuer = f"{base_url}/"
        self._generation = 0
        self._keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {}

    def jwks(self) -> Json:
        """Give the key set."""
        self._rsa_key(), self._ec_key()
        return {"keys": [self._public(kid, key) for kid, key in self._keys.items()]}

    def rotate(self, *, withdraw: bool) -> None:
        """Sign with new keys from now on."""
        if withdraw:
            self._keys.clear()
        self._generation += 1

    def issue(self, claims: Json, algorithm: str, header: Json, trick: str | None) -> str:
        """Sign a token; see `emulators.client.tenant`."""
        now = int(time.time())
        given = {
            "iss": self._issuer,
            "sub": "calendar-app@clients",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + LIFE,
            "azp": "calendar-app",
            "scope": "read:idp_tokens",
            "gty": "client-credentials",
            **claims,
        }
        given = {name: value for name, value in given.items() if value is not None}
        kid, key = self._ec_key() if algorithm.startswith("ES") else self._rsa_key()
        if trick == "none":
            return jwt.encode(given, "", algorithm="none", headers={"kid": kid, **header})
        if trick == "HS256":
            return self._confused(given, {"kid": kid, **header})
        if trick == "foreign":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return jwt.encode(given, key, algorithm=algorithm, headers={"kid": kid, **header})

    def _confused(self, claims: Json, header: Json) -> str:
        """Sign with the public key as a shared secret, as attackers of careless libraries do."""
        secret = self._rsa_key()[1].public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
        parts = [
            _encode(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT", **header}, claims)
        ]
        signed = ".".join(parts)
        return f"{signed}.{_encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"

    def _rsa_key(self) -> tuple[str, rsa.RSAPrivateKey]:
        kid = f"rsa-{self._generation}"
        if kid not in self._keys:
            self._keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key = self._keys[kid]
        assert isinstance(key, rsa.RSAPrivateKey)
        return kid, key

    def _ec_key(self) -> tuple[str, ec.EllipticCurvePrivateKey]:
        kid = f"ec-{self._generation}"
        if kid not in self._keys:
            self._keys[kid] = ec.generate_private_key(ec.SECP256R1())
        key = self._keys[kid]
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return kid, key

    @staticmethod
    def _public(kid: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Json:
        if isinstance(key, rsa.RSAPrivateKey):
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {"kid": kid, "use": "sig", **{name: value for name, value in jwk.items() if name != "key_ops"}}


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
