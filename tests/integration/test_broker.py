"""A worker beside somebody who writes to its Redis whatever he likes."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from kombu.connection import Connection

from emulators.client import Emulation
from tests.support.processes import site
from tests.support.wait import until
from token_vault.secret import Secret
from worker import __version__
from worker.broker import MUTEX_MILLISECONDS, install, repair_keys
from worker.embedded import Servers

Sql = Callable[..., list[dict[str, Any]]]

_CONTROL = {
    "body": base64.b64encode(
        json.dumps({"method": "cancel_consumer", "arguments": {"queue": "renew"}, "destination": None}).encode()
    ).decode(),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"clock": 1, "expires": None},
    "properties": {
        "delivery_mode": 2, "delivery_tag": "1", "body_encoding": "base64", "priority": 0,
        "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
    },
}  # fmt: skip

# Asks workers for a sign of life, as whoever gives them orders would.
_PING = """
import json, os
from celery import Celery
print(json.dumps(Celery(broker=os.environ["REDIS_URL"]).control.ping(timeout=1)))
"""


def task(body: object = ([], {}, {}), **headers: Any) -> str:
    """A message of a task, with what these headers say."""
    properties = _CONTROL["properties"] | {"delivery_info": {"exchange": "", "routing_key": "sync"}}  # type: ignore[operator]
    return json.dumps(
        _CONTROL | {
            "body": base64.b64encode(json.dumps(body).encode()).decode(), "properties": properties,
            "headers": {"task": "worker.renew_due", "id": "1"} | headers,
        }
    )  # fmt: skip


def test_a_worker_goes_on(
    tenant: Emulation, sql: Sql, database_url: Secret, redis_url: Secret, tmp_path: Path
) -> None:
    """Neither what is no message, nor a packed or a huge one, nor an order to consume no more stops it."""
    bomb = base64.b64encode(zlib.compress(bytes(16 << 20), 9)).decode()
    noise = ["garbage", "[]", "{}", "9" * 500_000, json.dumps(_CONTROL | {"body": bomb, "headers": {"compression": "zlib"}})]  # fmt: skip
    unsent = {
        "task": "worker.nothing",
        "args": [],
        "kwargs": {},
        "options": {"queue": "odd"},
        "immutable": True,
    }
    noise += [
        task(task={}), task(id=[]), task(id={}), task(shadow={}), task(timelimit=[1]), task(body=5),
        task(task="worker.sync_all", body=([], {"full": "no"}, {"errbacks": [unsent]})),
    ]  # fmt: skip

    def consumes() -> bool:
        return sql(
            "SELECT queues, version FROM worker_heartbeats WHERE seen_at > now() - interval '30 s'"
        ) == [{"queues": ["renew", "sync"], "version": __version__}]

    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="") as made:
        worker = made.worker("bulk", "renew,sync", threads=1)
        until(consumes, "the worker says that it consumes")
        with redis.Redis.from_url(redis_url.reveal()) as broker:
            broker.set("odd", "no queue")
            for item in noise:
                broker.lpush("sync", item)
            broker.publish("/0.celery.pidbox", json.dumps(_CONTROL))
            until(lambda: broker.llen("sync") == 0)
        assert made.run(_PING) == []
        (report,) = made.ask(("worker.sync_all", "sync", {}))
        assert report[0]["tenant"] == "default"
        assert worker.running
        assert consumes()
    until(lambda: "message.refused" in worker.log)
    assert "no_json" in worker.log
    assert "too_long" in worker.log
    assert "compressed" in worker.log


# What kombu keeps in each, as another type.
_WRONG = {
    "renew": "zset", "sync\x06\x163": "string", "unacked": "string", "unacked_index": "string", "unacked_mutex": "zset",
    "_kombu.binding.sync": "string", "_kombu.binding_permanent.renew": "zset",
}  # fmt: skip


def plant(broker: redis.Redis) -> None:
    """Put a value of a wrong type under each key."""
    for key, kind in _WRONG.items():
        broker.delete(key)
        if kind == "zset":
            broker.zadd(key, {"x": 1})
        else:
            broker.set(key, "x")


def test_what_kombu_could_not_have_written_is_removed(redis_url: Secret) -> None:
    """A key of another type goes, and a lock without an end or with a far one; all others stay."""
    queues = ["interactive", "renew", "sync"]
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        plant(broker)
        repair_keys(broker, queues)
        assert broker.keys() == []
        broker.set("unacked_mutex", "x")
        repair_keys(broker, queues)
        broker.set("unacked_mutex", "x", px=MUTEX_MILLISECONDS * 1000, nx=True)
        repair_keys(broker, queues)
        assert broker.keys() == []
        broker.set("unacked_mutex", "x", px=MUTEX_MILLISECONDS)
        broker.lpush("renew", "x")
        broker.hset("unacked", "x", "x")
        broker.zadd("unacked_index", {"x": 1})
        broker.sadd("_kombu.binding.sync", "x")
        broker.set("another application's", "x")
        repair_keys(broker, queues)
        assert len(broker.keys()) == 6


def test_a_dead_workers_message_that_is_none_is_dropped(redis_url: Secret) -> None:
    """What was never a message is not given back, and does not keep what was one from it."""
    install()
    opened: Any = Connection(redis_url.reveal())  # type: ignore[no-untyped-call]  # kombu carries no types
    with redis.Redis.from_url(redis_url.reveal()) as broker, opened as connection:
        channel = connection.channel()
        for tag, stored in {"bad": "garbage", "good": json.dumps([json.loads(task()), "", "sync"])}.items():
            broker.hset("unacked", tag, stored)
            broker.zadd("unacked_index", {tag: 2 if tag == "bad" else 1})
        channel.qos.restore_visible()
        assert broker.hgetall("unacked") == {}
        assert broker.zcard("unacked_index") == 0
        assert broker.llen("sync") == 1


def test_a_worker_outlives_keys_of_another_type(
    tenant: Emulation, sql: Sql, database_url: Secret, redis_url: Secret, tmp_path: Path
) -> None:
    """A worker whose keys become something else begins to consume anew, and works on."""
    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="") as made:
        worker = made.worker("bulk", "renew,sync", threads=1)
        with redis.Redis.from_url(redis_url.reveal()) as broker:
            plant(broker)
            until(lambda: broker.type("renew") == b"none" and broker.type("unacked") == b"none")
        (report,) = made.ask(("worker.sync_all", "sync", {}))
        assert report[0]["tenant"] == "default"
        assert worker.running
