"""Bounds what is believed of Redis' messages and keys.

Whoever may write to the queues could have a worker unpack a message of kilobytes to gigabytes, or end its loop by one
that is no message. Kombu decodes messages by one function, which is replaced here: it has no hook for this. A key of
another type than kombu's would end the worker, and a lock without an end would never be free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis as redis_transport

log = structlog.get_logger(__name__)

# Ids, states and options fit well into this.
MAX_MESSAGE_CHARACTERS = 65_536

# While one worker looks for messages of dead ones, others leave it to him: as long as kombu's own lock lasts.
MUTEX_MILLISECONDS = 300_000

_MUTEX = redis_transport.Channel.unacked_mutex_key
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


def repair_keys(client: Any, queues: Iterable[str]) -> None:
    """Remove keys that kombu could not have written.

    Args:
        client: of Redis.
        queues: that the worker consumes.
    """
    for key, wanted in _key_types(queues).items():
        found = client.type(key).decode()
        if found not in (wanted, "none"):
            log.warning("broker_key.removed", key=key, found=found, wanted=wanted)
            client.delete(key)
    left = client.pttl(_MUTEX)  # -1 without an end, -2 without a key
    if left == -1 or left > MUTEX_MILLISECONDS:
        log.warning("broker_key.removed", key=_MUTEX, found="no_end", wanted="string")
        client.delete(_MUTEX)


def _key_types(queues: Iterable[str]) -> dict[str, str]:
    """Return the type of each key that a worker uses."""
    channel = redis_transport.Channel
    types = {channel.unacked_key: "hash", channel.unacked_index_key: "zset", _MUTEX: "string"}
    for queue in queues:
        types |= {f"{queue}{channel.sep}{step}" if step else queue: "list" for step in channel.priority_steps}
        types |= {
            prefix % queue: "set" for prefix in (channel.keyprefix_queue, channel.keyprefix_binding_permanent)
        }
    return types


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
