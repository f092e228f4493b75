"""Checks a task's message before Celery reads it.

Celery does not check the types of fields. Some wrong types would end the worker, which returns the message to the queue
and so to the next worker; others would block a thread of its pool for good. Source: Celery's documentation, Message
Protocol, versions 1 and 2.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

# A message expires by the clock of the receiving host. With this much added, it is not dropped where one host's clock is
# five minutes ahead and the other's five minutes behind.
CLOCK_SKEW_SECONDS = 600.0
# Less than the visibility timeout, after which a message that still waits is delivered again, and runs twice.
MAX_COUNTDOWN_SECONDS = 3000.0
MAX_NAME_CHARACTERS = 255
MAX_NUMBER = 1_000_000  # of a count, or of seconds

# Nobody may send Celery's own tasks: one of them waits for a chord, and retries without end.
_OWN_TASKS = "celery."

# The worker would send these itself, with its own rights. If it cannot, Celery never ends the task, whose thread stays
# blocked.
_SUCCESSORS = ("callbacks", "errbacks", "chain", "chord")


class WrongMessage(ValueError):
    """A message is not a task's; a code says why."""


def read_task(message: dict[str, Any]) -> dict[str, Any]:
    """Return a task's message in version 2, with known headers.

    Raises:
        WrongMessage: a field is not what Celery expects.
    """
    body = _decode(message)
    headers = message["headers"]
    if "task" not in headers:  # version 1
        if not isinstance(body, dict):
            raise WrongMessage("no_task")
        headers = body
        embedded = {name: body.get(name) for name in _SUCCESSORS}
        body = [body.get("args") or [], body.get("kwargs") or {}, embedded]
        message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    _check_body(body)
    message["headers"] = _known(headers)
    return message


def _decode(message: Mapping[str, Any]) -> object:
    if message["properties"].get("body_encoding") != "base64":
        raise WrongMessage("no_json")
    try:
        return json.loads(base64.b64decode(message["body"], validate=True))
    except (ValueError, RecursionError):
        raise WrongMessage("no_json") from None


def _check_body(body: object) -> None:
    match body:
        case [list(), dict(), dict(embedded)]:
            pass
        case _:
            raise WrongMessage("wrong_body")
    if any(embedded.get(name) for name in _SUCCESSORS):
        raise WrongMessage("has_successors")


def _known(headers: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("task", "id"):
        if not _is_name(headers.get(name)):
            raise WrongMessage("no_task")
    if headers["task"].startswith(_OWN_TASKS):
        raise WrongMessage("celery_task")
    known = {name: headers[name] for name in _HEADERS if headers.get(name) not in (None, "")}
    for name, value in known.items():
        if not _HEADERS[name](value):
            raise WrongMessage(f"wrong_{name}")
    return known


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARACTERS and value.isprintable()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= MAX_NUMBER


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _are_limits(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(each is None or _is_number(each) for each in value)
    )


def _is_time(value: object) -> bool:
    return _read_time(value) is not None


def _is_near(value: object) -> bool:
    at = _read_time(value)
    return at is not None and at - datetime.now(UTC) <= timedelta(seconds=MAX_COUNTDOWN_SECONDS)


def _read_time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)
    except ValueError:
        return None


# The headers that Celery and the vault read, with the check of each; all others are removed.
_HEADERS: Mapping[str, Callable[[object], bool]] = {
    "task": _is_name, "id": _is_name, "lang": _is_name, "root_id": _is_name, "parent_id": _is_name, "group": _is_name,
    "shadow": _is_name, "origin": _is_name, "argsrepr": _is_text, "kwargsrepr": _is_text, "request_id": _is_text,
    "traceparent": _is_text, "eta": _is_near, "expires": _is_time, "retries": _is_count, "group_index": _is_count,
    "replaced_task_nesting": _is_count, "timelimit": _are_limits, "ignore_result": _is_flag, "redelivered": _is_flag,
}  # fmt: skip
