"""Checks messages and keys in Redis before they reach Celery.

Anybody who may write to the queues could send a message that unpacks from kilobytes to gigabytes, or one that is
malformed and ends the worker's loop. Kombu decodes messages with one function and has no hook, so that function is
replaced here. A key of a type that kombu does not expect would end the worker, and a lock that never expires would
never be free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport

from worker.task_messages import WrongMessage, read_task

log = structlog.get_logger(__name__)

# Ample for ids, states and options.
MAX_MESSAGE_CHARACTERS = 65_536

# The life of kombu's lock, under which one worker at a time restores the messages of dead workers.
MUTEX_MILLISECONDS = 300_000

_MUTEX = redis_transport.Channel.unacked_mutex_key
_CONTENT = ("application/json", "utf-8")
_restore_by_tag: Callable[..., None] = redis_transport.QoS.restore_by_tag


def install() -> None:
    """Make this process's consumers check messages."""
    vars(redis_transport)["loads"] = read_message
    type.__setattr__(redis_transport.QoS, "restore_by_tag", restore_or_drop)


def read_message(text: str) -> Any:
    """Return a message, or a list that begins with one.

    A refused message has already left its queue; at ``Empty``, kombu's loop goes on with the next.

    Raises:
        Empty: it is too long, compressed, or not a message in JSON.
    """
    try:
        return _read(text)
    except WrongMessage as error:
        log.warning("message.refused", error=str(error), length=len(text))
        raise Empty from None


def restore_or_drop(qos: Any, tag: str, client: Any = None, leftmost: bool = False) -> None:
    """Return a dead worker's message to its queue.

    A refused message is dropped: kombu would try it again without end, and never reach the messages behind it.
    """
    try:
        _restore_by_tag(qos, tag, client, leftmost)
    except Empty:
        with qos.channel.conn_or_acquire(client) as connected:
            connected.hdel(qos.unacked_key, tag)
            connected.zrem(qos.unacked_index_key, tag)


def _read(text: str) -> Any:
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise WrongMessage("too_long")
    read = _parse(text)
    # A delivered message that is not yet acknowledged is stored with its exchange and routing key.
    if not isinstance(read, list) or len(read) != 3:
        return _checked(read)
    message, exchange, routing_key = read
    if not (isinstance(exchange, str) and isinstance(routing_key, str)):
        raise WrongMessage("no_message")
    return [_checked(message), exchange, routing_key]


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise WrongMessage("no_json") from None


def _checked(message: object) -> dict[str, Any]:
    match message:
        case {
            "body": str(),
            "headers": dict(headers),
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            },
        } if isinstance(message, dict):
            pass
        case _:
            raise WrongMessage("no_message")
    if headers.get("compression"):
        raise WrongMessage("compressed")
    if (message.get("content-type"), message.get("content-encoding")) != _CONTENT:
        raise WrongMessage("no_json")
    return read_task(message)


class TaskConsumer(Consumer):  # type: ignore[misc]  # Celery carries no types
    """Celery's consumer, which no message can end.

    Celery does not check the types of a message's fields. An unexpected error would end the worker, which returns the
    message to its queue, where it ends the next worker.
    """

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return the function that is called with each message."""
        handle = super().create_task_handler(*args, **options)

        def handle_or_reject(message: Any) -> None:
            try:
                handle(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:  # any error that a message may cause in Celery
                log.warning("message.refused", error=type(error).__name__, length=len(str(message.body)))
                message.reject_log_error(log, self.connection_errors)

        return handle_or_reject


def repair_keys(client: Any, queues: Iterable[str]) -> None:
    """Remove keys that kombu cannot have written.

    Args:
        client: a client of Redis.
        queues: the names of the queues.
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
