"""Reads a token endpoint's answer, whatever its bytes.

No function here raises on any input.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl

from token_vault.secret import Secret

MAX_TOKEN_LIFE = timedelta(days=3650)
"""A life beyond this is no statement about a token (a sentinel, or another unit): it reads as unknown."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""Seconds. A longer ``Retry-After`` is cut to this, as Microsoft's own client does."""

_FORM = re.compile(r"[^\s<>\"{}\[\]]+")
_TOKEN = re.compile(r"[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*")
_SCOPE = re.compile(r"[\x21-\x7e]+")


def parse(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object or a form.

    Empty where the body is neither.

    Undecodable bytes are replaced rather than refused: a user's name in Latin-1 beside the tokens
    must not cost the tokens.
    """
    text = body.decode("utf-8-sig", errors="replace").strip()
    try:
        # Integers of any length: the interpreter refuses to convert very long ones.
        fields = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else math.inf)
    except (ValueError, RecursionError):
        return _parse_form(headers, text)
    return fields if isinstance(fields, dict) else {}


def _parse_form(headers: Mapping[str, str], text: str) -> dict[str, Any]:
    """Return the fields of a form, but never of HTML.

    GitHub answers with a form unless asked for JSON.
    """
    content_type = header(headers, "content-type").lower()
    if "html" in content_type or not _FORM.fullmatch(text):
        return {}
    try:
        return dict(parse_qsl(text, max_num_fields=100))
    except ValueError:
        return {}


def at_path(fields: Mapping[str, Any], path: str) -> object:
    """Return what is at a path of names with dots between; None where nothing is."""
    found: object = fields
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header by case-insensitive name; empty where absent."""
    return next((value for key, value in headers.items() if key.lower() == name), "")


def secret(value: object) -> Secret | None:
    """Return a token, or None for what cannot be one.

    RFC 6749 §A.12 and §A.17 allow printable ASCII only.
    """
    return Secret(value) if isinstance(value, str) and _TOKEN.fullmatch(value) else None


def refresh_secret(value: object) -> Secret | None:
    """Return a refresh token, None for what is none.

    It goes back where it came from, percent-encoded: whatever a provider sends in spite of RFC 6749 §A.17 is
    kept, as it may have rotated.
    """
    if not isinstance(value, str) or not value.strip():
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

    None for a life that is missing, garbage, zero, negative or longer than ``MAX_TOKEN_LIFE``.
    """
    units = number(value)
    if units is None or not 0 < units <= MAX_TOKEN_LIFE / unit:
        return None
    return start + unit * units


def moment(value: object, near: datetime) -> datetime | None:
    """Return a time from ISO 8601 or a Unix timestamp.

    A timestamp may count seconds or milliseconds.

    None for what is no such thing, or further from ``near`` than ``MAX_TOKEN_LIFE``.
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

    None where the answer names none.
    """
    if isinstance(value, str):
        value = value.replace(separator, " ").split()
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
