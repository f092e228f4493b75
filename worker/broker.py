"""Bounds what is believed of a message from Redis.

Whoever may write to the queues could have a worker unpack a message of kilobytes to gigabytes, or end its loop by one
that is no message. Kombu decodes messages by one function, which is replaced here: it has no hook for this.
"""

from __future__ import annotations

import json
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis as redis_transport

log = structlog.get_logger(__name__)

# Ids, states and options fit well into this.
MAX_MESSAGE_CHARACTERS = 65_536

_CONTENT = ("application/json", "utf-8")


def install() -> None:
    """Have all of this process's consumers read messages by ``read_message``."""
    vars(redis_transport)["loads"] = read_message


def read_message(text: str) -> Any:
    """Return a message, or a list whose head is one.

    A refused message is gone from its queue by now; Kombu's loop goes on at ``Empty``.

    Raises:
        Empty: it is too long, compressed, or no message of JSON.
    """
    reason = "too_long" if len(text) > MAX_MESSAGE_CHARACTERS else None
    if reason is None:
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            reason = "no_json"
        else:
            # What was delivered and not acknowledged is stored with its exchange and routing key.
            reason = _find_fault(read[0] if isinstance(read, list) and len(read) == 3 else read)
            if reason is None:
                return read
    log.warning("message.refused", error=reason, length=len(text))
    raise Empty


def _find_fault(message: object) -> str | None:
    """Say by a code why a message is refused."""
    if not isinstance(message, dict):
        return "no_message"
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return "no_message"
    delivery = properties.get("delivery_info")
    if (
        not isinstance(message.get("body"), str)
        or not isinstance(properties.get("delivery_tag"), str)
        or not isinstance(delivery, dict)
        or not isinstance(delivery.get("exchange"), str)
        or not isinstance(delivery.get("routing_key"), str)
    ):
        return "no_message"
    if headers.get("compression"):
        return "compressed"
    if (message.get("content-type"), message.get("content-encoding")) != _CONTENT:
        return "no_json"
    return None
