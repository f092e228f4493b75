"""Verifies callers' access tokens; PyJWT does the cryptography."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jwt

from worker.api.jwks import Jwks, PublicKey
from worker.api.problems import ApiProblem

# Which kind of key each algorithm needs.
ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}
# Clocks of the issuer and of this machine differ.
LEEWAY_SECONDS = 30
MAX_TOKEN_BYTES = 16_384
# Verified tokens that are remembered by their hash until they end, or their key is withdrawn: callers send one token
# for hours.
MAX_VERIFIED = 10_000
# Claims that only ID tokens have (OpenID Connect Core 1.0, sections 2 and 3.3.2.11).
_ID_TOKEN_CLAIMS = ("nonce", "at_hash", "c_hash", "s_hash")

_NO_KEY = (
    "this is an ID token: it tells the client who the user is, its audience is that client, and it is no key to an "
    "API. Ask the issuer for an access token with this API's audience"
)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The claims of a verified access token.

    Attributes:
        subject: ``sub``: a user's id, or an application's.
        client_id: the application that it was issued to; None if the token does not say.
        scopes: from ``scope`` and ``permissions``.
        is_machine: whether it was issued to an application for itself, not for a user.
        thumbprint: of the key that it is bound to (RFC 9449); None if it is not bound.
    """

    subject: str
    client_id: str | None
    scopes: frozenset[str]
    is_machine: bool
    thumbprint: str | None = None


@dataclass(frozen=True, slots=True)
class _Verified:
    """A verified token, and the key that verified it.

    Attributes:
        ends_at: when the token ends, in seconds since 1970.
    """

    kid: str
    key: PublicKey
    ends_at: float
    token: AccessToken


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies access tokens of one issuer for one audience.

    Attributes:
        jwks: the issuer's keys.
        issuer, audience: what ``iss`` has to be, and ``aud`` to contain.
        clock: seconds since 1970.
    """

    jwks: Jwks
    issuer: str
    audience: str
    clock: Callable[[], float] = time.time
    _verified: dict[bytes, _Verified] = field(default_factory=dict)

    async def verify(self, token: str, client_ids: Collection[str] = ()) -> AccessToken:
        """Verify a token.

        Args:
            token: as the caller sent it.
            client_ids: of known applications. A token whose audience is one of them is an ID token.

        Raises:
            ApiProblem: ``invalid-token``; it says what is wrong.
            TemporarilyUnavailable: the issuer's keys are not known.
        """
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        if (known := await self._find_verified(digest)) is not None:
            return known
        kid, key, claims = await self._decode(token)
        found = _read(self._check(claims, client_ids))
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[digest] = _Verified(kid, key, int(claims["exp"]) + LEEWAY_SECONDS, found)
        return found

    async def _find_verified(self, digest: bytes) -> AccessToken | None:
        """Return a token verified before, if it is still valid."""
        known = self._verified.get(digest)
        if known is None:
            return None
        if self.clock() < known.ends_at and await self.jwks.key(known.kid) is known.key:
            return known.token
        self._verified.pop(digest, None)
        return None

    async def _decode(self, token: str) -> tuple[str, PublicKey, dict[str, Any]]:
        algorithm, kid = _header(token)
        key = await self.jwks.key(kid)
        if key is None:
            refuse(
                "the issuer has no key of this token's id: it is another issuer's, or its key was withdrawn"
            )
        if key.type != ALGORITHMS[algorithm] or key.algorithm not in (None, algorithm):
            refuse("the key of this id is not one for the token's algorithm")
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_aud": False, "verify_iss": False},
            )
        except jwt.MissingRequiredClaimError as error:
            refuse(f"the token has no {error.claim}")
        except jwt.ExpiredSignatureError:
            refuse("the token has expired")
        except (jwt.ImmatureSignatureError, jwt.InvalidIssuedAtError):
            refuse("the token is not valid yet")
        except jwt.InvalidSignatureError:
            refuse("the token's signature is wrong")
        except (
            jwt.PyJWTError,
            ValueError,
            TypeError,
            OverflowError,
        ):  # ValueError, TypeError, OverflowError: a time that is no number, or infinite
            refuse("the token cannot be read")
        return kid, key, claims

    def _check(self, claims: dict[str, Any], client_ids: Collection[str]) -> dict[str, Any]:
        if claims["iss"] != self.issuer:
            refuse("the token is of another issuer")
        audience = claims["aud"]
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or not isinstance(claims["sub"], str) or not claims["sub"]:
            refuse("the token cannot be read")
        is_id_token = any(name in claims for name in _ID_TOKEN_CLAIMS)
        if self.audience not in audiences:
            # An access token says which application it was issued to, or what it may do.
            lacks_access = not any(
                name in claims for name in ("azp", "client_id", "scope", "permissions", "gty")
            )
            is_for_client = any(isinstance(each, str) and each in client_ids for each in audiences)
            if is_id_token or lacks_access or is_for_client:
                refuse(_NO_KEY)
            refuse("the token is for another audience than this API")
        if is_id_token:
            refuse(_NO_KEY)
        return claims


def _read(claims: Mapping[str, Any]) -> AccessToken:
    client_id = _text(claims, "azp") or _text(claims, "client_id")
    subject, own_id = claims["sub"], _own_client_id(claims["sub"])
    # A user's id may also end with "@clients": a provider chooses it, or even the user.
    is_own = own_id is not None and client_id in (None, own_id)
    is_machine = is_own or claims.get("gty") == "client-credentials"
    return AccessToken(subject, client_id or own_id, _scopes(claims), is_machine, _thumbprint(claims))


def _own_client_id(subject: str) -> str | None:
    """Return the application's id from ``sub`` (``ID@clients``).

    None for a user's id, which begins with the provider and a bar.
    """
    client_id = subject.removesuffix("@clients")
    return None if client_id == subject or not client_id or "|" in client_id else client_id


def _thumbprint(claims: Mapping[str, Any]) -> str | None:
    """Return the thumbprint of a bound token's key.

    None if the token is not bound to a key.
    """
    if "cnf" not in claims:
        return None
    confirmation = claims["cnf"]
    if not isinstance(confirmation, dict):
        refuse("the token cannot be read")
    if "x5t#S256" in confirmation:
        refuse(
            "this token is bound to a TLS client certificate (mTLS), which this API cannot see: "
            "have the issuer bind it by DPoP, or not at all"
        )
    thumbprint = confirmation.get("jkt")
    if len(confirmation) != 1 or not isinstance(thumbprint, str):
        refuse("this token is bound in a way that this API does not verify (cnf)")
    return thumbprint


def refuse(detail: str) -> NoReturn:
    """Raise the problem ``invalid-token`` (RFC 6750, 3)."""
    raise ApiProblem(
        "invalid-token",
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="token-vault", error="invalid_token"'},
    )


def _header(token: str) -> tuple[str, str]:
    """Return the algorithm and the key's id.

    Nothing else in the header is used: by ``jku``, ``x5u`` or ``jwk`` a token could bring its own key.
    """
    if len(token) > MAX_TOKEN_BYTES:
        refuse("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        refuse("this is neither an access token (a JWT) nor an API key")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm.lower() == "none":
        refuse("the token is not signed")
    if algorithm.startswith("HS"):
        refuse(
            f"{algorithm} is signed with a shared secret, which no issuer shares with an API: "
            "have the API sign with RS256 at the issuer"
        )
    if algorithm not in ALGORITHMS:
        refuse(f"tokens are signed with {', '.join(ALGORITHMS)}, and this one is not")
    if not isinstance(kid, str):
        refuse("the token does not name its key (kid)")
    return algorithm, kid


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    return value if isinstance(value, str) and value else None


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    scope, permissions = claims.get("scope"), claims.get("permissions")
    named = scope.split() if isinstance(scope, str) else []
    given = [each for each in permissions if isinstance(each, str)] if isinstance(permissions, list) else []
    return frozenset((*named, *given))
