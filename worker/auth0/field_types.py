"""Parses single fields of Auth0's answers, tolerantly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from token_vault.secret import Secret

# A century. No token lives longer, and its end might not fit into a date.
MAX_LIFETIME_SECONDS = 100 * 365 * 86_400.0

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


class UnreadableField(ValueError):
    """A field cannot be read.

    The message says what is wrong with it, without its value.
    """


def parse_text(value: object) -> str | None:
    """Return a text that can be stored, else None."""
    try:
        return require_text(value)
    except UnreadableField:
        return None


def parse_seconds(value: object) -> float | None:
    """Read seconds given as a number or digits, else None."""
    if isinstance(value, str):
        value = value.strip()
        number = float(value) if _NUMBER.fullmatch(value) else -1.0
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Compared first, as a longer int may not fit into a float.
        number = float(value) if abs(value) <= MAX_LIFETIME_SECONDS else -1.0
    else:
        return None
    return number if 0 <= number <= MAX_LIFETIME_SECONDS else None  # NaN compares false


def parse_time(value: object) -> datetime | None:
    """Read a time (UTC), with or without milliseconds, else None."""
    # Auth0's own schema allows an object as last_login.
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def require_text(value: object) -> str:
    """Return a text that can be sent and stored.

    Raises:
        UnreadableField: it is not.
    """
    if not isinstance(value, str):
        raise UnreadableField("is not a string")
    if not value:
        raise UnreadableField("is empty")
    if "\0" in value or not (value.isascii() or _is_encodable(value)):
        raise UnreadableField("holds NUL or half of a surrogate pair")
    return value


def require_text_or_number(value: object) -> str:
    """Return a text, or a whole number as text.

    It raises as ``require_text``.
    """
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else require_text(value)


def require_entries(value: object) -> Sequence[object]:
    """Return a list; an empty one for None.

    Raises:
        UnreadableField: it is another type.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnreadableField("is not a list")
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_token(value: object) -> Secret | None:
    """Return a token; None if absent or empty.

    It raises as ``require_text``.
    """
    return None if value is None or value == "" else Secret(require_text(value))


def parse_switch(value: object) -> bool | None:
    """Read ``{"active": true}``; None for anything else."""
    active = value.get("active") if isinstance(value, dict) else None
    return active if isinstance(active, bool) else None
