"""Proofs of possession of a token's key (DPoP, RFC 9449)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

import jwt

from token_vault.errors import TemporarilyUnavailable
from worker.api.problems import ApiProblem

# Which kind of key each algorithm needs.
ALGORITHMS = {"ES256": "EC", "PS256": "RSA", "RS256": "RSA", "EdDSA": "OKP"}
# What a key's thumbprint is made of (RFC 7638, 3.2; RFC 8037, 2).
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}
# Members that only a private or a shared key has (RFC 7518, 6).
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# A proof is made for one request, so its age is the request's time on the network, and the clocks' difference.
MAX_AGE_SECONDS = 60.0
MAX_AHEAD_SECONDS = 30.0
MAX_PROOF_BYTES = 8_192
MAX_ID_LENGTH = 500
# Proofs that are remembered, some 15 MB. Further callers get a 503.
MAX_REMEMBERED = 100_000
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class BoundRequest:
    """A request whose access token is bound to a key.

    Attributes:
        proofs: the values of its headers ``DPoP``.
        token: the access token as it was sent.
        thumbprint: of the key, from the token (``cnf.jkt``).
        path: as it was sent, percent-encoded.
    """

    proofs: Sequence[str]
    token: str
    thumbprint: str
    method: str
    path: str


@dataclass(slots=True)
class ProofVerifier:
    """Verifies proofs, and accepts each once in this process.

    Args:
        public_url: of this API, for callers. The request's own host is not used, as anybody can write it.
        clock: seconds since 1970, as in proofs.
    """

    public_url: str
    clock: Callable[[], float] = time.time
    # When each used proof may be forgotten, oldest first.
    _used: dict[bytes, float] = field(default_factory=dict)

    def verify(self, request: BoundRequest) -> None:
        """Verify the proof of a request.

        Raises:
            ApiProblem: ``invalid-token``; it says what is wrong.
            TemporarilyUnavailable: too many proofs have to be remembered.
        """
        proof = _only(request.proofs)
        claims = _decode(proof, request.thumbprint)
        self._check(claims, request)
        self._use_once(f"{request.thumbprint} {claims['jti']}")

    def _check(self, claims: dict[str, Any], request: BoundRequest) -> None:
        identity, method, url, issued_at = (claims.get(name) for name in ("jti", "htm", "htu", "iat"))
        if not isinstance(identity, str) or not 0 < len(identity) <= MAX_ID_LENGTH:
            _refuse("the proof has no jti")
        if method != request.method:
            _refuse("the proof is for another method (htm)")
        if not isinstance(url, str) or _normalize(url) != _normalize(self.public_url + request.path):
            _refuse("the proof is for another URL (htu)")
        if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
            _refuse("the proof does not say when it was made (iat)")
        try:
            age = self.clock() - issued_at
        except OverflowError:  # a whole number beyond all floats
            _refuse("the proof does not say when it was made (iat)")
        if age > MAX_AGE_SECONDS:
            _refuse(f"the proof is older than {MAX_AGE_SECONDS:.0f} s (iat)")
        if not age >= -MAX_AHEAD_SECONDS:
            _refuse("the proof is of the future (iat): clocks differ too much")
        wanted = _base64url(hashlib.sha256(request.token.encode()).digest())
        if not isinstance(claims.get("ath"), str) or not hmac.compare_digest(
            claims["ath"].encode("utf-8", "replace"), wanted.encode()
        ):
            _refuse("the proof is for another access token (ath)")

    def _use_once(self, name: str) -> None:
        now = self.clock()
        while self._used and (oldest := next(iter(self._used.items())))[1] < now:
            del self._used[oldest[0]]
        digest = hashlib.sha256(name.encode("utf-8", "replace")).digest()
        if digest in self._used:
            _refuse("the proof was used before (jti): each request needs one of its own")
        if len(self._used) >= MAX_REMEMBERED:
            raise TemporarilyUnavailable("too many proofs are remembered at a time", MAX_AGE_SECONDS)
        self._used[digest] = now + MAX_AGE_SECONDS + MAX_AHEAD_SECONDS


def challenge(error: str | None = None) -> str:
    """Return the challenge for ``WWW-Authenticate`` (RFC 9449, 7.1)."""
    error_part = f' error="{error}",' if error else ""
    return f'DPoP realm="token-vault",{error_part} algs="{" ".join(ALGORITHMS)}"'


def _refuse(detail: str) -> NoReturn:
    raise ApiProblem("invalid-token", detail, headers={"WWW-Authenticate": challenge("invalid_dpop_proof")})


def _only(proofs: Sequence[str]) -> str:
    if not proofs:
        _refuse("the token is bound to a key: send a proof of it in the header DPoP")
    if len(proofs) > 1:
        _refuse("there is more than one header DPoP")
    if len(proofs[0]) > MAX_PROOF_BYTES:
        _refuse("the proof is too long")
    return proofs[0]


def _decode(proof: str, thumbprint: str) -> dict[str, Any]:
    """Verify a proof's signature; return its claims."""
    try:
        header = jwt.get_unverified_header(proof)
    except (jwt.PyJWTError, ValueError):
        _refuse("the proof is no JWT")
    if header.get("typ") != "dpop+jwt":
        _refuse("the proof is of another type than dpop+jwt (typ)")
    algorithm, key = header.get("alg"), header.get("jwk")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        _refuse(f"proofs are signed with {', '.join(ALGORITHMS)}, and this one is not (alg)")
    if not isinstance(key, dict) or key.get("kty") != ALGORITHMS[algorithm]:
        _refuse("the proof has no public key for its algorithm (jwk)")
    if _PRIVATE_MEMBERS & key.keys():
        _refuse("the proof shows a private key (jwk): it is nobody's own any more, make another")
    if not hmac.compare_digest(_thumbprint(key).encode(), thumbprint.encode()):
        _refuse("the proof is by another key than the token is bound to (jwk)")
    try:
        return jwt.decode(
            proof,
            jwt.PyJWK(key, algorithm=algorithm).key,
            algorithms=[algorithm],
            # A proof has other claims than an access token. ``ProofVerifier`` checks them.
            options={f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},  # type: ignore[arg-type]
        )
    except jwt.InvalidSignatureError:
        _refuse("the proof's signature is wrong")
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        _refuse("the proof cannot be read")


def _thumbprint(key: dict[str, Any]) -> str:
    members = {name: key.get(name) for name in _THUMBPRINT_MEMBERS[key["kty"]]}
    if not all(isinstance(value, str) for value in members.values()):
        _refuse("the proof has no public key for its algorithm (jwk)")
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(text.encode()).digest())


def _base64url(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _normalize(url: str) -> tuple[str, str | None, int | None, str] | None:
    """Return a URL's normal form, for comparison (RFC 3986, 6.2).

    Query and fragment are left out (RFC 9449, 4.3). None if it is no URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if "@" in parts.netloc:
        return None
    path = re.sub(r"%[0-9A-Fa-f]{2}", _normalize_escape, parts.path)
    return parts.scheme, parts.hostname, port, path or "/"


def _normalize_escape(escape: re.Match[str]) -> str:
    character = chr(int(escape[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()
