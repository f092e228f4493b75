"""Parses parts of URLs that may hold a password."""

from __future__ import annotations

import re
from urllib.parse import unquote

from token_vault.secret import Secret

ENCODE = "percent-encode it in the user's name, the password and the database's name (@ is %40, / %2F, ? %3F, % %25)"

_BROKEN_PERCENT = re.compile(r"%(?![0-9a-f]{2})|%00", re.IGNORECASE)


def find_wrong_encoding(part: Secret) -> str | None:
    """Find broken percent-encoding, or characters that need it."""
    if _BROKEN_PERCENT.search(part.reveal()) or not _is_utf8(part):
        return f"has a % that begins no percent-encoded character: {ENCODE}"
    if re.search(r"[^\S ]", part.reveal()):
        return f"has a tab or a line break: {ENCODE}"
    return None


def _is_utf8(part: Secret) -> bool:
    try:
        unquote(part.reveal(), errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def is_port(text: str) -> bool:
    """Whether this is a port number."""
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def query(text: str) -> list[tuple[str, str]]:
    """Split and decode the parameters of a URL."""
    pairs = (part.partition("=") for part in text.split("&") if part)
    return [(unquote(name), unquote(value)) for name, _, value in pairs]
