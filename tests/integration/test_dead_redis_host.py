"""A Redis whose connections die without a word: its host lost power, or something on the way forgot them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from emulators.client import Emulation
from tests.support.forwarder import Forwarder, forwarder
from tests.support.processes import Site, site
from tests.support.wait import until
from worker.embedded import Servers

Sql = Callable[..., list[dict[str, Any]]]

# All has to be at work again by then, on a busy machine too; the kernel alone would notice after 15 minutes.
RECOVERY_SECONDS = 120


@pytest.fixture
def line(servers: Servers) -> Iterator[Forwarder]:
    """The line to Redis that the workers and beat use."""
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        broker.flushall()
    port = urlsplit(servers.redis_url.reveal()).port
    assert port is not None
    with forwarder(port) as made:
        yield made


@pytest.fixture
def here(servers: Servers, tenant: Emulation, line: Forwarder, tmp_path: Path, sql: Sql) -> Iterator[Site]:
    """A site at work, with two grants that live long."""
    tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
    tenant.add_users("bitbucket", 2)
    address = urlsplit(servers.redis_url.reveal())
    through = address._replace(netloc=address.netloc.rpartition(":")[0] + f":{line.port}").geturl()
    schedule = "renew = 1\nchanges = 60\nconnections = 60\nfull = 60"
    with site(servers, tenant, tmp_path, schedule=schedule, REDIS_URL=through) as made:
        made.beat()
        made.worker("bulk", "renew,sync")
        made.worker("interactive", "interactive")
        until(lambda: len(sql("SELECT id FROM grants")) == 2, what="users are synced")
        yield made


def test_work_goes_on_when_connections_die_without_a_word(
    servers: Servers, here: Site, line: Forwarder, tenant: Emulation, sql: Sql
) -> None:
    """Workers and beat notice, connect anew, and renew what is due; a refresh asked for is made."""
    assert line.go_dead() > 3
    sql("UPDATE grants SET due_at = now(), last_renewed_at = NULL")
    until(
        lambda: sql("SELECT 1 FROM grants HAVING count(last_renewed_at) = 2"),
        "beat and worker are back",
        seconds=RECOVERY_SECONDS,
    )
    here.environment["REDIS_URL"] = servers.redis_url.reveal()
    user, forced = "bitbucket|bitbucket-0", {"connection": "bitbucket", "force": True}
    before = tenant.live(user, "bitbucket")["access_token"]
    sql("UPDATE grants SET obtained_at = obtained_at - interval '1 min'")  # forced, a token may be so old

    def is_renewed() -> bool:
        # Asked for again as a reader would: a message that was popped into a dead connection is lost.
        here.send(("worker.refresh_token", "interactive", {"user_id": user, **forced}))
        return bool(tenant.live(user, "bitbucket")["access_token"] != before)

    until(is_renewed, "the interactive worker is back", seconds=RECOVERY_SECONDS)
