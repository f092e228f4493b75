"""Reads the values in a token endpoint's answer.

No function here raises on any input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from token_vault.secret import Secret

MAX_TOKEN_LIFE = timedelta(days=3650)
"""A longer life is a sentinel, or in another unit: it counts as unknown."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""A longer ``Retry-After`` is limited to this, as in Microsoft's own client."""

MAX_EXTRA_LENGTH = 2048
"""In characters. A value beside the token is an address or a name; a longer one is left out."""

_TOKEN = re.compile(r"[\x21-\x7e]+")
# What stands for a token where there is none, or none to be shown: taken for one, it would replace one that lives.
_PLACEHOLDER = re.compile(
    r"[<\[({*]*(null|none|nil|undefined|n/a|nan|false|true|redacted|hidden|masked)[>\])}*]*|\*{3,}",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"bearer +", re.IGNORECASE)
_SCOPE = re.compile(r"[\x21-\x7e]+")


def at_path(fields: Mapping[str, Any], path: str) -> object:
    """Return what is at a dotted path, or None."""
    found: object = fields
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header by case-insensitive name; empty where absent."""
    return next((value for key, value in headers.items() if key.lower() == name), "")


def secret(value: object) -> Secret | None:
    """Return an access token, if it can be one.

    RFC 6749 §A.12 allows printable ASCII only, and RFC 6750 §2.1 no blanks: a sentence in its place is an error.
    """
    if not isinstance(value, str):
        return None
    value = _SCHEME.sub("", value, count=1) if _SCHEME.match(value) else value
    return Secret(value) if _TOKEN.fullmatch(value) and not _PLACEHOLDER.fullmatch(value) else None


def refresh_secret(value: object) -> Secret | None:
    """Return a refresh token, if it can be one.

    Any text is accepted, even if RFC 6749 §A.17 forbids it: the provider may have rotated, and the text can be sent back
    to it percent-encoded.
    """
    if not isinstance(value, str) or not value.strip() or _PLACEHOLDER.fullmatch(value.strip()):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    return Secret(value)


def number(value: object) -> float | None:
    """Return a finite number from a number or numeric string.

    None from anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def after(value: object, unit: timedelta, start: datetime) -> datetime | None:
    """Return the end of a life given in units.

    None for a life that is missing, malformed, zero, negative or longer than ``MAX_TOKEN_LIFE``.
    """
    units = number(value)
    if units is None or not 0 < units <= MAX_TOKEN_LIFE / unit:
        return None
    return start + unit * units


def moment(value: object, near: datetime) -> datetime | None:
    """Return a time from ISO 8601 or a Unix timestamp.

    A timestamp may count seconds or milliseconds. None for any other value, and for a time further from ``near`` than
    ``MAX_TOKEN_LIFE``.
    """
    try:
        if (stamp := number(value)) is not None:
            found = datetime.fromtimestamp(stamp / 1000 if stamp > 1e11 else stamp, UTC)
        elif isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        else:
            return None
        return found if abs(found - near) <= MAX_TOKEN_LIFE else None
    except (ValueError, OverflowError, OSError):
        return None


def scopes(value: object, separator: str) -> tuple[str, ...] | None:
    """Return granted scopes from a string or list.

    None if the answer names none. A text without blanks is split at its commas, or else at its plus signs: 20 of 344
    providers in the largest public catalogue separate scopes this way.
    """
    if isinstance(value, str):
        value = value.replace(separator, " ").replace(", ", " ")
        others = "" if len(value.split()) > 1 else "," if "," in value else "+"
        value = (value.replace(others, " ") if others else value).split()
    if not isinstance(value, list):
        return None
    return tuple(item for item in value if isinstance(item, str) and _SCOPE.fullmatch(item)) or None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds of ``Retry-After`` (RFC 9110 §10.2.3).

    The header is a number or an HTTP date.
    """
    text = header(headers, "retry-after").strip()
    seconds = number(text)
    if seconds is None:
        try:
            date = parsedate_to_datetime(text)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def texts(fields: Mapping[str, object], names: Iterable[str]) -> dict[str, str]:
    """Return the short values of these names, as text."""
    return {
        name: str(value)
        for name in names
        if isinstance(value := fields.get(name), str | int)
        and not isinstance(value, bool)
        and 0 < len(str(value)) <= MAX_EXTRA_LENGTH
    }
