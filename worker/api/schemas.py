"""The schemas of the API's requests and answers (OpenAPI 3.1)."""

from __future__ import annotations

from typing import Any

from worker.api.problems import PROBLEM_TYPES

Json = dict[str, Any]


def schemas() -> Json:
    """Return all schemas, by name."""
    text, time = {"type": "string"}, {"type": ["string", "null"], "format": "date-time"}
    optional, scopes = {"type": ["string", "null"]}, {"type": ["array", "null"], "items": text}
    return {
        "Token": _object(
            {
                "token_type": {"type": "string", "const": "Bearer"}, "access_token": text, "expires_at": time,
                "expires_in": {"type": ["integer", "null"], "description": "Seconds; null where nobody said."},
                "scopes": scopes, "connection": text, "user_id": optional, "account": optional,
                "extra": {"type": "object", "additionalProperties": text},
            }
        ),
        "Grant": _object(
            {
                "connection": text, "account": optional, "tenant": text, "state": text, "reason": optional,
                "since": time, "expires_at": time, "scopes": scopes,
            }
        ),
        "Grants": _object(
            {"user_id": text, "grants": {"type": "array", "items": {"$ref": "#/components/schemas/Grant"}}}
        ),
        "Link": _object({"reauthorize_url": text, "user_id": text, "connection": text}),
        "Rejected": _object({"access_token": {"type": "string", "minLength": 1, "maxLength": 60_000}}),
        "Replacing": _object({"replacing": {"type": "boolean"}}),
        "HookEvents": _object(
            {
                "queued": {"type": "integer", "description": "Users who are synced."},
                "passed_over": {"type": "integer", "description": "Events that change no token."},
                "malformed": {
                    "type": "array", "items": {"type": "integer"},
                    "description": "Which events could not be read, counted from 1.",
                },
            }
        ),
        "SetError": _object({"err": text, "description": text}),
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"enum": [each.uri for each in PROBLEM_TYPES.values()]},
                "title": text, "status": {"type": "integer"}, "detail": text, "request_id": text,
                "reason": text, "since": time, "retry_after": {"type": "integer"}, "reauthorize_url": text,
                "accounts": {"type": "array", "items": text},
                "missing_scopes": {"type": "array", "items": text},
                "user_id": text, "connection": text,
            },
        },
    }  # fmt: skip


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}
