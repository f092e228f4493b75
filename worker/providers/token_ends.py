"""When tokens and consent end, by an answer.

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

# What providers call the life of an access token, in seconds …
_LIVES = (
    "expires_in",
    "expiresIn",
    "expires_in_sec",
    "access_token_expires_in",
    "accessTokenExpiresIn",
    "expires",
)
# … and its end: Unix seconds or milliseconds, or ISO 8601.
_ENDS = (
    "expires_at", "expiresAt", "expires_on", "expiresOn", "access_token_expires_at", "accessTokenExpiresAt",
    "expiry", "expiry_date", "expiration", "expires", "exp",
)  # fmt: skip
# The sliding end, which a renewal puts off: refresh tokens that are not used by then end.
_REFRESH_LIVES = (
    "refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in", "refreshTokenExpiresIn",
    "refresh_token_timeout",
)  # fmt: skip
_REFRESH_ENDS = ("refresh_token_expires_at", "refresh_expires_at", "refreshTokenExpiresAt")
# The hard end, which no renewal puts off (Intuit; draft-ietf-oauth-refresh-token-expiration).
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

    The earliest of all that is said counts: a life in milliseconds under the usual name would make a token seem to
    live for months, and what else the answer says shows it.

    Args:
        holder: the object that holds the token.
        name, unit: what the provider's declaration says of its life.
        default_life: where the answer says nothing.
    """
    declared = holder.get(name)
    ends = [answer.moment(declared, sent_at) if unit == "absolute" else answer.after(declared, unit, sent_at)]
    ends += _ends(holder, sent_at, lives=_without(name, _LIVES), ends=_without(name, _ENDS))
    ends.append(_jwt_end(access, sent_at))
    # An end that is past says that a clock is wrong, not that a new token has ended.
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

    It is not verified, and need not be: it came from the provider over TLS, and can only make the life shorter.
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
