"""Reads from an answer when tokens and consent end.

No function here raises on any input.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from token_vault.secret import Secret
from worker.providers import answer

SECONDS = timedelta(seconds=1)
Unit = timedelta | Literal["absolute"]

# Providers' names for the life of an access token, in seconds …
_LIVES = (
    "expires_in",
    "expiresIn",
    "expires_in_sec",
    "access_token_expires_in",
    "accessTokenExpiresIn",
    "expires",
)
# … and for its end: Unix seconds or milliseconds, or ISO 8601.
_ENDS = (
    "expires_at", "expiresAt", "expires_on", "expiresOn", "access_token_expires_at", "accessTokenExpiresAt",
    "expiry", "expiry_date", "expiration", "expires", "exp",
)  # fmt: skip
# The sliding end, which each renewal extends.
_REFRESH_LIVES = (
    "refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in", "refreshTokenExpiresIn",
    "refresh_token_timeout",
)  # fmt: skip
_REFRESH_ENDS = ("refresh_token_expires_at", "refresh_expires_at", "refreshTokenExpiresAt")
# The hard end, which renewals do not extend (Intuit; draft-ietf-oauth-refresh-token-expiration).
_CONSENT_LIVES = ("x_refresh_token_hard_expires_in", "authorization_expires_in", "consent_expires_in")
_CONSENT_ENDS = ("authorization_expires_at", "consent_expires_at")

# A JWT whose payload is longer than this many characters is not read.
MAX_PAYLOAD = 65_536


def access_end(
    holder: Mapping[str, Any],
    access: Secret | None,
    sent_at: datetime,
    *,
    name: str = "expires_in",
    unit: Unit = SECONDS,
    default_life: timedelta | None = None,
) -> datetime | None:
    """Return when the access token ends, or None.

    It is the earliest of all ends in the answer: a life in milliseconds under the usual name would make a token seem to
    live for months, but other fields then name an earlier end.

    Args:
        holder: the object that contains the token.
        name, unit: of its life, as the provider declares them.
        default_life: if the answer names no end.
    """
    declared = holder.get(name)
    ends = [answer.moment(declared, sent_at) if unit == "absolute" else answer.after(declared, unit, sent_at)]
    ends += _ends(holder, sent_at, lives=_without(name, _LIVES), ends=_without(name, _ENDS))
    ends.append(_jwt_end(access, sent_at))
    # An end in the past means that a clock is wrong, not that a new token has ended.
    return _earliest(ends, sent_at) or (sent_at + default_life if default_life else None)


def refresh_end(holder: Mapping[str, Any], sent_at: datetime) -> datetime | None:
    """Return the sliding end of the refresh token."""
    return _earliest(_ends(holder, sent_at, lives=_REFRESH_LIVES, ends=_REFRESH_ENDS), sent_at)


def consent_end(holder: Mapping[str, Any], sent_at: datetime) -> datetime | None:
    """Return the hard end of the consent."""
    return _earliest(_ends(holder, sent_at, lives=_CONSENT_LIVES, ends=_CONSENT_ENDS), sent_at)


def _ends(
    holder: Mapping[str, Any], sent_at: datetime, *, lives: Iterable[str], ends: Iterable[str]
) -> list[datetime | None]:
    return [
        *(answer.after(holder[name], SECONDS, sent_at) for name in lives if name in holder),
        *(answer.moment(holder[name], sent_at) for name in ends if name in holder),
    ]


def _earliest(ends: Iterable[datetime | None], sent_at: datetime) -> datetime | None:
    return min((end for end in ends if end is not None and end > sent_at), default=None)


def _without(name: str, names: Iterable[str]) -> Iterable[str]:
    return (each for each in names if each != name)


def _jwt_end(access: Secret | None, sent_at: datetime) -> datetime | None:
    """Return a JWT's own end (RFC 7519, 4.1.4), or None.

    It need not be verified: it came from the provider over TLS, and can only make the life shorter.
    """
    parts = access.reveal().split(".") if access else []
    if len(parts) != 3 or len(parts[1]) > MAX_PAYLOAD:
        return None
    try:
        payload = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None
    end = payload.get("exp") if isinstance(payload, dict) else None
    return answer.moment(end, sent_at) if answer.number(end) is not None else None
