"""Real workers, beat, readers and foreign applications, each in a process of its own, over real servers.

The tests share one site and leave it running; each has users or connections of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis

from emulators.client import Emulation, running
from tests.support.database import empty_tables
from tests.support.processes import Process, Site, site
from tests.support.wait import until
from worker.embedded import Servers

Sql = Callable[..., list[dict[str, Any]]]

LIFE = 6  # seconds that an access token of the rotating provider lives
SCHEDULE = "renew = 1\nchanges = 2\nconnections = 5\nfull = 5"


@pytest.fixture(scope="module")
def base(servers: Servers) -> Iterator[Sql]:
    """An empty vault and an empty Redis; runs statements on the vault's database."""
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        broker.flushall()
    empty_tables(servers.database_url)
    with psycopg.connect(
        servers.database_url.reveal(), autocommit=True, row_factory=psycopg.rows.dict_row
    ) as connection:

        def run(statement: str, *values: object) -> list[dict[str, Any]]:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description is not None else []

        yield run


@pytest.fixture(scope="module")
def world() -> Iterator[Emulation]:
    """A tenant with a strictly rotating provider of short-lived tokens, one of long-lived ones, one with grace."""
    with running() as tenant:
        tenant.configure_provider("custom", access_life=LIFE, reuse_revokes_family=True, old_access_dies=True)
        tenant.configure_provider("graceful", like="custom", access_life=LIFE, grace=600.0)
        tenant.add_connection("strict", "oauth2", "custom")
        tenant.add_connection("graceful", "oauth2", "graceful")
        tenant.add_connection("bitbucket", "bitbucket", "bitbucket")
        tenant.add_connection("corp-google", "google-apps", "google", admin=True)
        yield tenant


@pytest.fixture(scope="module")
def here(
    servers: Servers, base: Sql, world: Emulation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site with users, and nothing running yet."""
    world.add_users("strict", 4)
    with site(servers, world, tmp_path_factory.mktemp("site"), schedule=SCHEDULE) as made:
        yield made


@pytest.fixture(scope="module")
def everything(here: Site, base: Sql) -> Site:
    """The site with a bulk worker, an interactive worker and beat, which have filled the empty vault by themselves."""
    assert base("SELECT id FROM grants") == []
    here.beat()
    here.worker("bulk", "renew,sync")
    here.worker("interactive", "interactive", threads=8)
    until(
        lambda: len(base("SELECT id FROM grants WHERE connection = 'strict'")) == 4, what="users are synced"
    )
    return here


def renewed(base: Sql, connection: str) -> int:
    """How many grants of a connection were renewed at least once."""
    (found,) = base("SELECT count(last_renewed_at) AS renewed FROM grants WHERE connection = %s", connection)
    return int(found["renewed"])


def renewals(world: Emulation, connection: str) -> int:
    """How many calls the connection's token endpoint has had."""
    return len(world.call_log(world.token_url(connection).removeprefix(world.base_url)))


def accepts(world: Emulation, token: str) -> bool:
    """Whether the provider's API takes a token."""
    answer = world.http.get("/idp/userinfo", headers={"authorization": f"Bearer {token}"})
    return answer.status_code == 200


def presented_twice(world: Emulation, user_id: str, connection: str) -> list[str]:
    """The refresh tokens of a user that were presented more than once."""
    ledger = {pair["refresh"]: pair["presented"] for pair in world.ledger(user_id, connection)}
    return [refresh for refresh, presented in ledger.items() if presented > 1]


def test_from_nothing_to_renewed_tokens(base: Sql, world: Emulation, everything: Site) -> None:
    """An empty vault fills itself, renews before tokens end, and readers elsewhere get what the provider takes."""
    until(lambda: renewed(base, "strict") == 4, what="all are renewed")
    users = [row["user_id"] for row in base("SELECT user_id FROM grants WHERE connection = 'strict'")]
    with lasting_tokens(base, world):
        tokens = everything.read(*({"user_id": user, "connection": "strict"} for user in users))
        assert len(set(tokens)) == 4
        for user, token in zip(users, tokens, strict=True):
            holder = world.holder(token)
            assert holder is not None
            assert user.endswith(str(holder["subject"]))
            assert accepts(world, token)
    assert world.double_spends() == 0


@contextmanager
def lasting_tokens(base: Sql, world: Emulation) -> Iterator[None]:
    """Let no token of the strict provider end or be replaced, however long a slow machine takes here."""
    lasting = "SELECT 1 FROM grants WHERE connection = 'strict' AND due_at > now() + interval '10 min'"
    world.configure_provider("custom", access_life=3600)
    try:
        until(lambda: len(base(lasting)) == 4, what="all have tokens that last")
        yield
    finally:
        world.configure_provider("custom", access_life=LIFE)
        base("UPDATE grants SET due_at = now() WHERE connection = 'strict'")


def test_a_foreign_application_asks_by_name(base: Sql, world: Emulation, everything: Site) -> None:
    """An application without any import of ours queues every public task by name and gets plain JSON results."""
    (user,) = world.add_users("bitbucket", 1)
    synced, connection = everything.ask(
        ("worker.sync_user", "sync", {"user_id": user}),
        ("worker.sync_connection", "sync", {"connection": "bitbucket"}),
    )
    assert (synced["scope"], synced["seen"], synced["problems"]) == ("user", 1, [])
    assert (connection["scope"], connection["seen"], connection["connections"]) == ("connection", 1, 1)
    (everyone,) = until(
        lambda: [
            report
            for report in everything.ask(("worker.sync_all", "sync", {"full": True}))[0]
            if not report["skipped"]
        ],
        what="a sync is not skipped beside beat's",
    )
    assert (everyone["scope"], everyone["seen"], everyone["failed"]) == ("all", 5, 0)
    before = world.live(user, "bitbucket")["access_token"]
    base("UPDATE grants SET obtained_at = obtained_at - interval '1 min'")  # forced, a token may be so old
    asked = {"user_id": user, "connection": "bitbucket"}
    fresh, forced, nobody, admin, wrong = everything.ask(
        ("worker.refresh_token", "interactive", asked),
        ("worker.refresh_token", "interactive", asked | {"force": True}),
        ("worker.refresh_token", "interactive", {"user_id": "nobody", "connection": "bitbucket"}),
        ("worker.refresh_token", "interactive", {"admin_connection": "corp-google", "force": True}),
        ("worker.refresh_token", "interactive", {"user_id": user}),
    )
    assert (fresh["state"], fresh["renewed"]) == ("active", False)
    assert (forced["state"], forced["renewed"], forced["reason"]) == ("active", True, None)
    assert (nobody["state"], nobody["renewed"]) == ("not_found", False)
    assert (admin["state"], admin["renewed"], admin["user_id"]) == ("active", True, "")
    assert "ValueError" in wrong
    after = str(world.live(user, "bitbucket")["access_token"])
    assert after != before
    assert everything.read(asked) == [after]
    assert after not in json.dumps([synced, connection, everyone, fresh, forced, admin])


def test_a_reader_is_served_by_the_interactive_worker(base: Sql, world: Emulation, everything: Site) -> None:
    """A reader whose token is stale gets a new one through the queue, even while bulk work waits for its provider."""
    (user,) = world.add_users("bitbucket", 1)
    everything.ask(("worker.sync_user", "sync", {"user_id": user}))
    before = renewals(world, "strict")
    world.fail_next("/idp/custom", 4, "delay:6")
    until(lambda: renewals(world, "strict") > before, what="bulk work waits for its provider")
    base("UPDATE grants SET expires_at = now() + interval '3 s' WHERE user_id = %s", user)
    asked = {"user_id": user, "connection": "bitbucket", "wait": 5}
    tokens = everything.read(*[asked | {"min_ttl": 10}] * 3)
    world.clear_faults()
    assert tokens == [world.live(user, "bitbucket")["access_token"]] * 3
    assert not presented_twice(world, user, "bitbucket")


def test_a_message_that_is_delivered_twice(
    servers: Servers, base: Sql, world: Emulation, everything: Site
) -> None:
    """The very same message, delivered twice at a time, makes one call at the provider."""
    (user,) = world.add_users("bitbucket", 1)
    everything.ask(("worker.sync_user", "sync", {"user_id": user}))
    base("UPDATE grants SET expires_at = now() + interval '3 s' WHERE user_id = %s", user)
    send = (
        "import json, os\nfrom celery import Celery\n"
        "Celery(broker=os.environ['REDIS_URL']).send_task('worker.refresh_token', queue='parked', ignore_result=True,"
        f" kwargs={{'user_id': {user!r}, 'connection': 'bitbucket', 'min_ttl': 10}})\nprint('null')"
    )
    everything.run(send)
    world.fail_next("/idp/bitbucket", 1, "delay:0.5")
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        message = broker.lpop("parked")
        assert isinstance(message, bytes)
        broker.lpush("interactive", message, message)
        until(lambda: not broker.llen("interactive"), what="both are taken")
    until(lambda: renewed_user(base, user), what="it is renewed")
    assert everything.ask(
        ("worker.refresh_token", "interactive", {"user_id": user, "connection": "bitbucket"})
    )
    assert [pair["presented"] for pair in world.ledger(user, "bitbucket")] == [1, 0]


def renewed_user(base: Sql, user: str) -> bool:
    return bool(base("SELECT 1 FROM grants WHERE user_id = %s AND last_renewed_at IS NOT NULL", user))


def test_two_beats_and_two_bulk_workers(base: Sql, world: Emulation, everything: Site) -> None:
    """With everything twice each refresh token is still spent once, and renewal goes on when one half is gone."""
    second = [everything.beat("beat-2"), everything.worker("bulk-2", "renew,sync")]
    spent_by(world, base, rounds=2)
    for process in second:
        assert process.terminate() == 0
    spent_by(world, base, rounds=1)
    users = [row["user_id"] for row in base("SELECT user_id FROM grants WHERE connection = 'strict'")]
    assert [presented_twice(world, user, "strict") for user in users] == [[]] * 4
    assert world.double_spends() == 0


def spent_by(world: Emulation, base: Sql, *, rounds: int) -> None:
    """Wait until every grant of the strict provider was renewed some more times."""
    users = [row["user_id"] for row in base("SELECT user_id FROM grants WHERE connection = 'strict'")]
    wanted = {user: len(world.ledger(user, "strict")) + rounds for user in users}
    until(
        lambda: all(len(world.ledger(user, "strict")) >= count for user, count in wanted.items()),
        f"{rounds} renewals each",
    )


def test_redis_is_flushed(servers: Servers, base: Sql, world: Emulation, everything: Site) -> None:
    """Whatever Redis forgets, renewal and refreshes on demand go on: correctness and schedules are in Postgres."""
    (user,) = world.add_users("bitbucket", 1)
    everything.ask(("worker.sync_user", "sync", {"user_id": user}))
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        for _ in range(3):
            broker.flushall()
            broker.client_kill_filter(_type="normal", skipme=True)
    spent_by(world, base, rounds=1)
    base("UPDATE grants SET expires_at = now() + interval '3 s' WHERE user_id = %s", user)
    (token,) = everything.read({"user_id": user, "connection": "bitbucket", "wait": 10, "min_ttl": 10})
    assert accepts(world, token)
    assert world.double_spends() == 0


def test_a_warm_shutdown_finishes_what_is_in_flight(base: Sql, world: Emulation, everything: Site) -> None:
    """SIGTERM lets calls in flight end and be committed; then the worker exits 0 and leaves no claim behind."""
    bulk = running_bulk(everything)
    before = renewals(world, "strict")
    world.fail_next("/idp/custom", 8, "delay:1.5")
    until(lambda: renewals(world, "strict") > before, what="a call is in flight")
    assert bulk.terminate() == 0
    world.clear_faults()
    assert base("SELECT id FROM grants WHERE claim_owner IS NOT NULL") == []
    for row in base("SELECT user_id FROM grants WHERE connection = 'strict' AND state = 'active'"):
        newest = world.ledger(row["user_id"], "strict")[-1]
        assert (newest["presented"], newest["live"]) == (0, True)
    everything.worker("bulk", "renew,sync")
    spent_by(world, base, rounds=1)
    assert world.double_spends() == 0


def test_a_killed_worker(base: Sql, world: Emulation, everything: Site) -> None:
    """A worker killed in the middle of calls loses nothing that can be kept, and says what could not be, and since when.

    Three calls die with it: at a provider with grace, at a strict one that had not begun with the request, and at a
    strict one that had rotated already. Only the last is lost, as it must be.
    """
    bulk = running_bulk(everything)
    kept, saved, lost = users = [
        world.add_users(connection, 1, prefix=prefix)[0]
        for connection, prefix in (("graceful", "kept"), ("strict", "saved"), ("bitbucket", "lost"))
    ]
    everything.ask(*(("worker.sync_user", "sync", {"user_id": user}) for user in users))
    base("UPDATE grants SET due_at = now() + interval '1 day' WHERE state = 'active'")
    until(lambda: not base("SELECT 1 FROM grants WHERE claim_owner IS NOT NULL"), what="all is quiet")
    before = world.double_spends()
    world.reset_calls()
    world.fail_next("/idp/graceful", 1, "hang")
    world.fail_next("/idp/custom", 1, "hang", carried_out=False)
    world.fail_next("/idp/bitbucket", 1, "hang")
    base("UPDATE grants SET due_at = now() WHERE user_id = ANY(%s)", users)
    until(lambda: len(world.call_log("/idp")) == 3, what="three calls are in flight")
    bulk.kill()

    claimed = base("SELECT user_id FROM token_status WHERE in_flight_until > now()")
    assert sorted(row["user_id"] for row in claimed) == sorted(users)
    everything.worker("bulk", "renew,sync")
    # Their claims run out, which takes two minutes of real time.
    base(
        "UPDATE grants SET claimed_at = claimed_at - interval '3 min', claim_until = now(), due_at = now()"
        " WHERE claim_owner IS NOT NULL"
    )
    began = {row["user_id"]: row["claimed_at"] for row in base("SELECT user_id, claimed_at FROM grants")}
    for user in (kept, saved):
        until(lambda: renewed_user(base, user), what=f"{user} is renewed")  # noqa: B023  # called at once
        (row,) = base("SELECT state, in_doubt_since, attempts FROM grants WHERE user_id = %s", user)
        assert row == {"state": "active", "in_doubt_since": None, "attempts": 0}
    doubtful = until(lambda: standing(base, lost, "in_doubt"), what="the doubt is known")
    assert doubtful["reason_since"] == began[lost]
    assert len(world.call_log("/idp/bitbucket")) == 1  # its access token is served as long as it lives
    base("UPDATE grants SET expires_at = now() + interval '9 s', due_at = now() WHERE user_id = %s", lost)
    dead = until(lambda: standing(base, lost, "reauthorization_required"), what="the loss is known")
    assert (dead["reason"], dead["reason_since"]) == ("lost_in_rotation", began[lost])
    assert world.double_spends() - before == 2  # what was kept and what was lost, once more each
    assert presented_twice(world, saved, "strict") == []

    base("UPDATE grants SET due_at = now() WHERE state = 'active'")
    spent_by(world, base, rounds=1)
    assert base("SELECT user_id FROM grants WHERE state <> 'active'") == [{"user_id": lost}]


def standing(base: Sql, user: str, state: str) -> dict[str, Any] | None:
    """How a user's grant stands, if in this state."""
    found = base("SELECT * FROM token_status WHERE user_id = %s AND state = %s", user, state)
    return found[0] if found else None


def running_bulk(here: Site) -> Process:
    return next(process for process in here.processes if process.name == "bulk" and process.running)
