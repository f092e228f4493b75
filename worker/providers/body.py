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

# JSONP, in which QQ refuses.
_CALL = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$]{0,63}\s*\(\s*(\{.*\})\s*\)\s*;?", re.DOTALL)
_FORM = re.compile(r"[^\s<>\"{}\[\]]+")


def parse(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object or a form.

    Empty where the body is neither.

    Undecodable bytes are replaced rather than refused: a user's name in Latin-1 beside the tokens
    must not cost the tokens. JSON in UTF-16 is read as well.
    """
    text = body.decode(json.detect_encoding(body), errors="replace").strip()
    if call := _CALL.fullmatch(text):
        text = call[1]
    try:
        # Integers of any length: the interpreter refuses to convert very long ones.
        fields = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else math.inf)
    except (ValueError, RecursionError):
        return token_fields.salvage(text) or _parse_form(headers, text)
    if isinstance(fields, list | str):  # tokens may be in there all the same
        return {"": fields} if token_fields.has_refresh_token({"": fields}) else {}
    return fields if isinstance(fields, dict) else {}


def _parse_form(headers: Mapping[str, str], text: str) -> dict[str, Any]:
    """Return the fields of a form.

    Under HTML's type only a form with a refresh token counts.

    GitHub answers with a form unless asked for JSON.
    """
    if not _FORM.fullmatch(text):
        return {}
    try:
        fields = dict(parse_qsl(text, max_num_fields=100))
    except ValueError:
        return {}
    is_html = "html" in answer.header(headers, "content-type").lower()
    return {} if is_html and not token_fields.has_refresh_token(fields) else fields
