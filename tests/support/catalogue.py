"""Counts how much of a public catalogue of providers a declaration can express.

    python -m tests.support.catalogue providers.yaml

The file is ``packages/providers/providers.yaml`` of https://github.com/NangoHQ/nango; no copy of it is kept here. What
its entries say only for the sign-in and for calls of the API is not looked at: renewal is what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its types are not installed

# Fields that concern a renewal, with the values that a declaration, or a connection's table, has a word for.
EXPRESSED: Mapping[str, frozenset[str]] = {
    "body_format": frozenset({"form", "json"}),  # json_body
    "token_request_auth_method": frozenset({"basic", "private_key_jwt"}),  # client_auth
    "authorization_method": frozenset({"header", "body"}),  # client_auth
    "scope_separator": frozenset({" ", ",", "+"}),  # scope_separator
}
# token_url with places to fill in, refresh_url, refresh_params and token_params, redirect_uri, values beside the token
# and paths in the answer: token_url, refresh_url, extra, redirect_uri, extra of the token, within.
NEEDS_CODE: Mapping[str, str] = {
    "bullhorn": "a second call exchanges the token for a session",
    "shopline-oauth": "each request is signed over the time",
    "absorb-lms": "each request has a nonce",
}


def resolved(entries: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return an entry with what it takes over from another."""
    entry = entries[name]
    return resolved(entries, entry["alias"]) | entry if "alias" in entry else entry


def obstacle(name: str, entry: Mapping[str, Any]) -> str | None:
    """Return why a renewal cannot be expressed."""
    if name in NEEDS_CODE:
        return NEEDS_CODE[name]
    for field, values in EXPRESSED.items():
        if (value := entry.get(field)) is not None and value not in values:
            return f"{field} is {value!r}"
    if not isinstance(entry.get("token_url"), str):
        return "it has no token_url"
    return None


def obstacles(path: Path) -> tuple[int, dict[str, str]]:
    """Return the number of OAuth 2 entries, and why some cannot be expressed."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    oauth2 = {
        name: entry for name in entries if (entry := resolved(entries, name)).get("auth_mode") == "OAUTH2"
    }
    found = {name: why for name, entry in oauth2.items() if (why := obstacle(name, entry))}
    return len(oauth2), found


if __name__ == "__main__":
    total, found = obstacles(Path(sys.argv[1]))
    print(f"{total - len(found)} of {total}")
    for name, why in sorted(found.items()):
        print(f"{name}: {why}")
