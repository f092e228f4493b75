"""What is believed of a message from Redis."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport

from worker import broker


def encoded(body: object) -> str:
    """A body as kombu writes it."""
    return base64.b64encode(json.dumps(body).encode()).decode()


def message(body: object = encoded([[], {}, {}]), **changes: Any) -> str:
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
    headers = {"task": "worker.renew_due", "id": "1", "compression": "application/x-gzip"}
    tracemalloc.start()
    try:
        for body in (bomb, encoded([[], {}, {}])):  # what is no JSON would be refused for that alone
            with pytest.raises(Empty):
                broker.read_message(message(body, headers=headers))
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


ONE_ID = {"task": "worker.renew_due", "id": "1"}
FOLLOWING = [{"task": "worker.renew_due", "args": [], "kwargs": {}, "options": {}}]


def with_headers(**headers: Any) -> str:
    """A message of a task with these headers."""
    return message(headers=ONE_ID | headers)


@pytest.mark.parametrize(
    "text",
    [
        *(
            with_headers(**{name: value})
            for name in ("task", "id", "root_id", "group", "retries", "timelimit", "eta", "expires", "ignore_result", "shadow")
            for value in ({}, [1], {"a": 1}, "\ud800", -1, 1e308, 10**400, float("nan"), "9999-12-31T23:59:59")
            if (name, value) not in (("expires", "9999-12-31T23:59:59"), ("ignore_result", "x"))
            if not (name in ("task", "id", "root_id", "group", "shadow") and value == "9999-12-31T23:59:59")
        ),
        *(with_headers(task=name) for name in ("celery.chord_unlock", "celery.starmap", "", "x" * 256)),
        with_headers(eta=(datetime.now(UTC) + timedelta(hours=2)).isoformat()),
        *(message(body) for body in ("%", "", encoded({}), encoded([]), encoded([[], {}]), encoded([{}, [], {}]), encoded([[], {}, 5]))),
        message(base64.b64encode(b"[" * 30_000).decode()),
        *(message(encoded([[], {}, {name: FOLLOWING}])) for name in ("callbacks", "errbacks", "chain", "chord")),
        json.dumps([json.loads(message()), 5, "renew"]), json.dumps([json.loads(message()), "", {}]),
    ],
)  # fmt: skip
def test_what_would_stop_celery_is_passed_over(text: str) -> None:
    """A field of another type ends no worker, and a task that nothing ends keeps no place of it."""
    with pytest.raises(Empty):
        broker.read_message(text)


def test_unknown_headers_are_left_out() -> None:
    """What an app adds to a message cannot stand in for what Celery keeps of it."""
    near = (datetime.now(UTC) + timedelta(minutes=40)).isoformat()
    given = with_headers(
        get=5,
        delivery_info={},
        request_id="r-1",
        eta=near,
        timelimit=[None, 5],
        retries=3,
        group=None,
        shadow="",
    )
    headers = broker.read_message(given)["headers"]
    assert headers == ONE_ID | {"request_id": "r-1", "eta": near, "timelimit": [None, 5], "retries": 3}


def test_the_first_version_is_read() -> None:
    """A message of Celery's first protocol, as other languages' clients send it, is one of the second."""
    body = {
        "task": "worker.sync_user",
        "id": "7",
        "args": None,
        "kwargs": {"user_id": "u"},
        "retries": 0,
        "utc": True,
    }
    read = broker.read_message(message(encoded(body), headers={}))
    assert read["headers"] == {"task": "worker.sync_user", "id": "7", "retries": 0}
    assert json.loads(base64.b64decode(read["body"]))[:2] == [[], {"user_id": "u"}]


def test_what_celery_did_not_expect_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Celery meets in a message, it is rejected; a lost connection is told on."""
    errors = [TypeError("unhashable"), ConnectionError()]

    def take(_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(Consumer, "create_task_handler", lambda _: take)
    consumer = broker.TaskConsumer.__new__(broker.TaskConsumer)
    consumer.connection_errors, consumer.channel_errors = (ConnectionError,), ()
    rejected: list[object] = []
    received: Any = SimpleNamespace(body="{}", reject_log_error=lambda *_: rejected.append(received))
    handle = consumer.create_task_handler()
    handle(received)
    assert rejected == [received]
    with pytest.raises(ConnectionError):
        handle(received)


def test_kombu_reads_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu's transport has the function that is replaced."""
    assert callable(vars(redis_transport)["loads"])
    monkeypatch.setattr(redis_transport, "loads", json.loads)
    monkeypatch.setattr(redis_transport.QoS, "restore_by_tag", None)
    broker.install()
    assert redis_transport.QoS.restore_by_tag is broker.restore_or_drop
    assert vars(redis_transport)["loads"] is broker.read_message
