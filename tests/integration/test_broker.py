"""A worker beside somebody who writes to its Redis whatever he likes."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from emulators.client import Emulation
from tests.support.processes import site
from tests.support.wait import until
from token_vault.secret import Secret
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


def test_a_worker_goes_on(
    tenant: Emulation, sql: Sql, database_url: Secret, redis_url: Secret, tmp_path: Path
) -> None:
    """Neither what is no message, nor a packed or a huge one, nor an order to consume no more stops it."""
    bomb = base64.b64encode(zlib.compress(bytes(16 << 20), 9)).decode()
    noise = ["garbage", "[]", "{}", "9" * 500_000, json.dumps(_CONTROL | {"body": bomb, "headers": {"compression": "zlib"}})]  # fmt: skip

    def consumes() -> bool:
        return sql("SELECT queues FROM worker_heartbeats WHERE seen_at > now() - interval '30 s'") == [
            {"queues": ["renew", "sync"]}
        ]

    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule="") as made:
        worker = made.worker("bulk", "renew,sync", threads=1)
        until(consumes, "the worker says that it consumes")
        with redis.Redis.from_url(redis_url.reveal()) as broker:
            for item in noise:
                broker.lpush("sync", item)
            broker.publish("/0.celery.pidbox", json.dumps(_CONTROL))
            until(lambda: broker.llen("sync") == 0)
        (report,) = made.ask(("worker.sync_all", "sync", {}))
        assert report[0]["tenant"] == "default"
        assert worker.running
        assert consumes()
    until(lambda: "message.refused" in worker.log)
    assert "no_json" in worker.log
    assert "too_long" in worker.log
    assert "compressed" in worker.log
