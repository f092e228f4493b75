"""Checks of single values that several tables have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator

from token_vault.secret import Secret
from worker.http.loopback import is_https
from worker.settings.section import SecretField

_Headers = TypeVar("_Headers", bound=Mapping[str, str] | Mapping[str, Secret])

# RFC 9110, section 5.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


def split_url(url: str) -> SplitResult | None:
    """Return an absolute URL's parts (None if it is none)."""
    try:
        parts = urlsplit(url)
        sound = parts.port != 0 and (parts.hostname or "").encode("idna")
    except ValueError:
        return None
    plain = not any(character.isspace() or not character.isprintable() for character in url)
    return parts if sound and plain and "://" in url else None


def require_https(name: str, url: str) -> SplitResult:
    """Return the parts of a setting's https URL.

    Raises:
        ValueError: it is none; the message begins with the setting's name.
    """
    parts = urlsplit(url)
    if not parts.hostname or not is_https(parts):
        raise ValueError(f"{name} has to be https; plain http goes to loopback only")
    return parts


def check_https_url(name: str, url: str) -> None:
    """Check that a setting is an https URL without query.

    Raises:
        ValueError: it is none; the message begins with the setting's name.
    """
    parts = urlsplit(url)
    if not parts.hostname or not is_https(parts) or parts.query or parts.fragment:
        raise ValueError(f"{name} begins with https:// (http:// goes to loopback alone), without query")


def _check_endpoint(url: str) -> str:
    parts = split_url(url)
    if parts is None or not is_https(parts) or "@" in parts.netloc or parts.fragment:
        raise ValueError(
            "has to be a URL with https, without user, password and fragment: https://login.acme.example/oauth/token "
            "(plain http goes to loopback only)"
        )
    return url


def _check_headers(headers: _Headers) -> _Headers:
    for name, value in headers.items():
        text = value.reveal() if isinstance(value, Secret) else value
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(text):
            raise ValueError(
                "a header has a name of letters, digits and hyphens, and a value in one line of ASCII without blanks "
                "around it"
            )
    return headers


EndpointUrl = Annotated[str, AfterValidator(_check_endpoint)]
"""A URL that tokens are sent to."""

Headers = Annotated[Mapping[str, str], AfterValidator(_check_headers)]
"""Valid HTTP headers."""

SecretHeaders = Annotated[Mapping[str, SecretField], AfterValidator(_check_headers)]
"""Valid HTTP headers with secret values, which error messages do not show."""
