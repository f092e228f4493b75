"""A Redis that is alive and of no use: workers and beat stay, and go on when it is well again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import structlog

from emulators.client import Emulation
from tests.support.processes import Site, site
from tests.support.wait import until
from token_vault.secret import Secret
from worker import embedded
from worker.embedded import Servers
from worker.settings import load

Sql = Callable[..., list[dict[str, Any]]]

USER = "bitbucket|bitbucket-0"
CONNECTION = "bitbucket"


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[Secret]:
    """A Redis of this test's own, whose configuration it may change."""
    with embedded.servers(tmp_path / "redis", postgres=False, durable=False) as own:
        yield own.redis_url


@pytest.fixture
def here(
    database_url: Secret, redis_url: Secret, tenant: Emulation, tmp_path: Path, sql: Sql
) -> Iterator[Site]:
    """Beat and a worker at work."""
    tenant.add_connection(CONNECTION, CONNECTION, CONNECTION)
    tenant.add_users(CONNECTION, 1)
    schedule = "renew = 1\nchanges = 60\nconnections = 60\nfull = 60\nevents = 1"
    with site(Servers(database_url, redis_url), tenant, tmp_path, schedule=schedule) as made:
        made.beat()
        made.worker("worker", "interactive,renew,sync")
        until(lambda: sql("SELECT id FROM grants"), what="users are synced")
        yield made


def test_workers_and_beat_outlive_every_kind_of_useless_redis(
    here: Site, redis_url: Secret, tenant: Emulation, sql: Sql
) -> None:
    """As a replica, full, with another password or with its connections killed, Redis ends no process for good."""
    beat, worker = here.processes

    def attempts() -> int:
        # A beat that connects anew meanwhile waits for Redis, and sends nothing.
        of_beat = sum(map(beat.log.count, ("beat.send_failed", "beat.broker_lost")))
        return of_beat + worker.log.count("Cannot connect")

    def have_noticed(before: int) -> bool:
        return attempts() > before

    with redis.Redis.from_url(redis_url.reveal()) as broker:
        password = urlsplit(redis_url.reveal()).password
        outages: Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "a replica": (lambda: broker.execute_command("REPLICAOF", "127.0.0.1", "1"),
                          lambda: broker.execute_command("REPLICAOF", "NO", "ONE")),
            "full": (lambda: broker.config_set("maxmemory", "1"),
                     lambda: broker.config_set("maxmemory", "0")),
            "another password": (lambda: broker.config_set("requirepass", "another"),
                                 lambda: broker.config_set("requirepass", password)),
        }  # fmt: skip
        for name, (begin, end) in outages.items():
            tries = attempts()
            begin()
            broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            # Renewal goes on meanwhile.
            sql("UPDATE grants SET due_at = now(), last_renewed_at = NULL")
            until(lambda: sql("SELECT 1 FROM grants WHERE last_renewed_at IS NOT NULL"), f"renewed, {name}")
            until(partial(have_noticed, tries), f"somebody has noticed: {name}")
            end()
            sql("DELETE FROM worker_heartbeats")
            until(lambda: sql("SELECT 1 FROM worker_heartbeats WHERE queues <> '{}'"), f"back after {name}")
            before = tenant.live(USER, CONNECTION)["access_token"]
            sql("UPDATE grants SET obtained_at = now() - interval '1 h', last_renewed_at = NULL")
            here.ask(("worker.refresh_token", "interactive",
                      {"user_id": USER, "connection": CONNECTION, "force": True}))  # fmt: skip
            assert tenant.live(USER, CONNECTION)["access_token"] != before
            assert beat.running
            assert worker.running


def test_beat_outlives_a_channel_that_broke_while_it_was_opened_anew(
    environment: Path, redis_url: Secret
) -> None:
    """Kombu goes on with such a channel for good; beat loses one tick, and connects anew."""
    from worker.app import make_app
    from worker.beat import LivelyScheduler

    app = make_app(load())
    beat = LivelyScheduler(app, lazy=True)
    beat.setup_schedule()
    renew = beat.schedule["renew"]
    beat.producer.channel.connection = None  # as after a Redis that went away twice
    with structlog.testing.capture_logs() as logged:
        beat.apply_entry(renew, producer=beat.producer)
        beat.apply_entry(renew, producer=beat.producer)
    assert [(line["event"], line["task"]) for line in logged if line["log_level"] == "warning"] == [
        ("beat.send_failed", "worker.renew_due")
    ]
    with redis.Redis.from_url(redis_url.reveal()) as broker:
        assert broker.llen("renew") == 1
