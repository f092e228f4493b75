"""Verifies security event tokens; PyJWT does the cryptography.

Source: RFC 8417 (tokens), RFC 8935 (push), RFC 9493 (subjects), OpenID RISC 1.0, CAEP 1.0, and Google's
"Cross-Account Protection", whose subjects have the names of an earlier draft (OAuth Event Types 1.0, 2.2, of tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jwt

from worker.api.access_tokens import ALGORITHMS, LEEWAY_SECONDS, MAX_TOKEN_BYTES
from worker.api.jwks import Jwks
from worker.settings.hooks import TransmitterSettings
from worker.vault.grants.refresh_digests import TokenName

MEDIA_TYPE = "secevent+jwt"
# A token is about one occurrence, of which it may have several events (RFC 8417, 2).
MAX_EVENTS = 20
_SCHEMAS = "https://schemas.openid.net/secevent/"

# After these events a provider may have ended tokens. A renewal shows whether it has.
DEATH_SIGNALS = frozenset(
    _SCHEMAS + name
    for name in (
        "risc/event-type/sessions-revoked",
        "risc/event-type/account-disabled",
        "risc/event-type/account-purged",
        "risc/event-type/account-credential-change-required",
        "risc/event-type/tokens-revoked",
        "oauth/event-type/tokens-revoked",
        "oauth/event-type/token-revoked",
        "caep/event-type/session-revoked",
        "caep/event-type/credential-change",
    )
)
# A transmitter sends these to test whether the stream works.
VERIFICATIONS = frozenset(_SCHEMAS + f"{name}/event-type/verification" for name in ("ssf", "sse", "risc"))


class SetRefused(Exception):
    """A token is refused.

    Attributes:
        code: from RFC 8935, section 2.4.
        description: what is wrong.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.description = description


@dataclass(frozen=True, slots=True)
class SecurityEventToken:
    """The claims of a verified token.

    Attributes:
        events: by their types.
        subject: of all events; None if each event has its own.
    """

    events: Mapping[str, Any]
    subject: Any

    def subject_of(self, event: Any) -> Any:
        """Return the subject of one of the events."""
        return self.subject or (event.get("subject") if isinstance(event, dict) else None)


@dataclass(frozen=True, slots=True)
class Transmitter:
    """Verifies the tokens of one transmitter.

    Attributes:
        settings: the operator's settings for it.
        jwks: its public keys.
    """

    settings: TransmitterSettings
    jwks: Jwks

    async def verify(self, token: str) -> SecurityEventToken:
        """Verify a token.

        A token does not expire and may be sent again (RFC 8417, 2.2). That is harmless, as it only makes the vault renew
        a grant.

        Raises:
            SetRefused: it says what is wrong.
            TemporarilyUnavailable: the transmitter's keys are not known.
        """
        header, issuer = _peek(token)
        self._check_type(header)
        if not same_issuer(issuer, self.settings.issuer):
            refuse("invalid_issuer", "the token is of another issuer")
        claims = await self._decode(token, header)
        audience = claims["aud"]
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(each in self.settings.audience for each in audiences):
            refuse("invalid_audience", "the token is for another audience")
        events = claims.get("events")
        if not isinstance(events, dict) or not 0 < len(events) <= MAX_EVENTS:
            refuse("invalid_request", f"the claim events is no object with 1 to {MAX_EVENTS} events")
        return SecurityEventToken(events, claims.get("sub_id"))

    def account(self, token: SecurityEventToken, event: Any) -> str | None:
        """Return the account that an event is about.

        None if the subject is not the issuer's own id of a user. An email address does not count, as it may have been
        given to somebody else.
        """
        subject = token.subject_of(event)
        if isinstance(subject, dict) and isinstance(subject.get("user"), dict):
            subject = subject["user"]  # a complex subject (SSF 1.0, 3.2)
        if not isinstance(subject, dict):
            return None
        form = _form(subject)
        issuer, account = subject.get("iss"), subject.get("sub")
        if form not in ("iss_sub", "id_token_claims") or not isinstance(issuer, str):
            return None
        if not isinstance(account, str) or not same_issuer(issuer, self.settings.issuer):
            return None
        return account

    def refresh_token(self, token: SecurityEventToken, event: Any) -> TokenName | None:
        """Return the refresh token that an event is about.

        None if it is about something else, or names the token in an unknown way.
        """
        subject = token.subject_of(event)
        if not isinstance(subject, dict) or _form(subject) != "oauth_token":
            return None
        if subject.get("token_type") != "refresh_token":
            return None
        return TokenName.of(subject.get("token_identifier_alg"), subject.get("token"))

    def _check_type(self, header: Mapping[str, Any]) -> None:
        """Refuse the issuer's other tokens (RFC 8417, 2.3)."""
        kind = header.get("typ")
        name = kind.lower().removeprefix("application/") if isinstance(kind, str) else None
        if name == MEDIA_TYPE or (not self.settings.typed and name in (None, "jwt")):
            return
        refuse("invalid_request", f"the token's typ is not {MEDIA_TYPE}")

    async def _decode(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or not isinstance(kid, str):
            refuse("invalid_key", "a token says by what algorithm and key it is signed (alg, kid)")
        if algorithm not in ALGORITHMS or "crit" in header:
            refuse("invalid_key", f"a token is signed with {', '.join(ALGORITHMS)}, and names its key (kid)")
        key = await self.jwks.key(kid)
        if key is None or key.type != ALGORITHMS[algorithm] or key.algorithm not in (None, algorithm):
            refuse("invalid_key", "the issuer has no such key")
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["iss", "aud", "iat", "jti"],
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_exp": False,
                },
            )
        except jwt.MissingRequiredClaimError as error:
            refuse("invalid_request", f"the token has no {error.claim}")
        except jwt.InvalidSignatureError:
            refuse("authentication_failed", "the token's signature is wrong")
        except (jwt.PyJWTError, ValueError, TypeError):
            refuse("invalid_request", "the token cannot be read")


def refuse(code: str, description: str) -> NoReturn:
    """Refuse a token."""
    raise SetRefused(code, description)


def _form(subject: Mapping[str, Any]) -> str:
    """Return a subject's format (RFC 9493, or the draft's)."""
    return str(subject.get("format") or subject.get("subject_type")).replace("-", "_")


def same_issuer(one: object, other: str) -> bool:
    """Whether two texts name one issuer.

    Google's issuer is written with and without scheme and slash.
    """
    return isinstance(one, str) and _canonical(one) == _canonical(other)


def _canonical(issuer: str) -> str:
    return issuer.removeprefix("https://").removesuffix("/")


def _peek(token: str) -> tuple[dict[str, Any], object]:
    """Return header and issuer, unverified, for error messages."""
    if len(token) > MAX_TOKEN_BYTES:
        refuse("invalid_request", "the token is too long")
    try:
        whole = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        refuse("invalid_request", "the body is no token")
    return whole["header"], whole["payload"].get("iss")
