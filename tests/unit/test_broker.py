"""What is believed of a message from Redis."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from queue import Empty
from typing import Any

import pytest
from kombu.transport import redis as redis_transport

from worker import broker


def message(body: object = "W10=", **changes: Any) -> str:
    """A message as Celery sends it."""
    fields = {
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"task": "worker.renew_due", "id": "1"},
        "properties": {
            "delivery_tag": "1", "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "renew"},
        },
    }  # fmt: skip
    return json.dumps(fields | changes)


def test_a_message_is_read() -> None:
    """What Celery sends, or has stored as not acknowledged, arrives as it is."""
    assert broker.read_message(message()) == json.loads(message())
    stored = [json.loads(message()), "", "renew"]
    assert broker.read_message(json.dumps(stored)) == stored


def test_a_compressed_message_is_not_unpacked() -> None:
    """Kilobytes that say they are compressed cost no more than kilobytes."""
    bomb = base64.b64encode(zlib.compress(zlib.compress(bytes(400 << 20), 9), 9)).decode()
    tracemalloc.start()
    try:
        with pytest.raises(Empty):
            broker.read_message(message(bomb, headers={"compression": "application/x-gzip"}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "", "garbage", "7", "null", "[]", "{}", "[" * 50_000, '[1, "", ""]',
        message("x" * broker.MAX_MESSAGE_CHARACTERS),
        message(**{"content-type": "application/x-python-serialize"}),
        message(**{"content-encoding": "utf-16"}),
        message(headers=None), message(properties={}), message(body=7),
        message(properties={"delivery_tag": "1", "delivery_info": {"exchange": [], "routing_key": "renew"}}),
    ],
)  # fmt: skip
def test_what_is_no_message_of_ours_is_passed_over(text: str) -> None:
    """Whatever lies in a queue, the worker goes on to the next message."""
    with pytest.raises(Empty):
        broker.read_message(text)


def test_kombu_reads_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu's transport has the function that is replaced."""
    assert callable(vars(redis_transport)["loads"])
    monkeypatch.setattr(redis_transport, "loads", json.loads)
    broker.install()
    assert vars(redis_transport)["loads"] is broker.read_message
