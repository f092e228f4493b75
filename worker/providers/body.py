"""Reads the body of a token endpoint's answer.

No function here raises on any input.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from worker.providers import answer, token_fields

# JSONP, QQ's format of refusals.
_CALL = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$]{0,63}\s*\(\s*(\{.*\})\s*\)\s*;?", re.DOTALL)
_FORM = re.compile(r"[^\s<>\"{}\[\]]+")


def parse(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object or a form.

    Empty if the body is neither. Undecodable bytes are replaced, so that a user's name in Latin-1 beside the tokens does
    not cost the tokens. JSON in UTF-16 is read as well.
    """
    text = body.decode(json.detect_encoding(body), errors="replace").strip()
    if call := _CALL.fullmatch(text):
        text = call[1]
    try:
        fields = _parse_json(text)
    except (ValueError, RecursionError):
        return token_fields.salvage(text) or _parse_form(headers, text)
    if isinstance(fields, list | str):  # these may contain tokens as well
        return {"": fields} if token_fields.has_refresh_token({"": fields}) else {}
    return fields if isinstance(fields, dict) else {}


def _parse_json(text: str) -> Any:
    """Parse JSON that may repeat names.

    The last value of a name counts, but an empty one never hides a token.

    Raises:
        ValueError, RecursionError: it is none.
    """
    is_repeated = text.count('refresh_token"') > 1 or text.count('access_token"') > 1
    return json.loads(
        text,
        # Integers of any length: the interpreter refuses to convert very long ones.
        parse_int=lambda digits: int(digits) if len(digits) < 20 else math.inf,
        object_pairs_hook=_merge if is_repeated else None,
    )


def _merge(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = {name for name, value in pairs if value not in (None, "")}
    return {name: value for name, value in pairs if value not in (None, "") or name not in given}


def _parse_form(headers: Mapping[str, str], text: str) -> dict[str, Any]:
    """Return the fields of a form, as GitHub's default answer.

    With the content type of HTML, only a form with a refresh token is accepted. Without an ``&``, fields are separated at
    ``;`` or at the ends of lines: otherwise the refresh token would be part of the access token, and handed to readers.
    """
    lines = text.split()
    if "&" not in text and len(lines) > 1 and all("=" in line for line in lines):
        text = "&".join(lines)
    if not _FORM.fullmatch(text):
        return {}
    try:
        fields = dict(parse_qsl(text, max_num_fields=100, separator="&" if "&" in text else ";"))
    except ValueError:
        return {}
    is_html = "html" in answer.header(headers, "content-type").lower()
    return {} if is_html and not token_fields.has_refresh_token(fields) else fields
