"""What `token-vault plan` works out, and what it asks for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.auth0_server import Answer, FakeTime, Request, client_of, running
from tests.support.command_log import log_as_commands
from tests.support.wait import WAIT_SECONDS
from worker.auth0 import PLANS
from worker.cli import main
from worker.cli.forecast import (
    GRANT_BYTES,
    RENEWAL_LOG_BYTES,
    STACK_MEGABYTES,
    Workload,
    database_load,
    forecast,
    renewed_every,
    user_pages,
)

demands = st.builds(
    Workload,
    users=st.integers(0, 5_000_000),
    logins_per_day=st.floats(0, 5_000_000),
    connections=st.integers(0, 2_000),
    token_life=st.floats(60, 90 * 86_400),
    share=st.floats(0, 0.9),
)
plans = st.sampled_from(sorted(PLANS))


def walked(users: int) -> int:
    """Count the pages of a walk by walking it: each page of 100 begins with the last user of the one before."""
    pages, position = 1, min(users, 100)
    while position < users:
        pages, position = pages + 1, min(users, position + 99)
    return pages


@given(st.integers(0, 30_000))
def test_pages_are_those_of_a_walk(users: int) -> None:
    """As many pages are counted as the walk asks for."""
    assert user_pages(users) == walked(users)


def test_a_worked_example() -> None:
    """100,000 users on the enterprise plan, 20,000 of whom sign in a day, half the limit left to others."""
    workload = Workload(users=100_000, logins_per_day=20_000, connections=250, token_life=3600, share=0.5)
    bare = forecast(PLANS["enterprise"], workload, lists_carry_tokens=False)
    assert bare.full_sync_calls == {"read_users": 1011 + 100_000, "connections": 3, "other": 1}
    assert bare.full_sync_seconds == pytest.approx(101_015 / 8)
    assert bare.daily_calls == {"log": 1440, "logins": 20_000, "connections": 432, "reconciliation": 130}
    assert bare.load == pytest.approx(22_002 / 8 / 86_400)
    assert bare.crawl_calls == 24 * 101_015
    assert bare.renewals_per_second == pytest.approx(100_000 / 2850)
    assert (bare.workers, bare.cores, bare.megabytes) == (1, 2, STACK_MEGABYTES)
    assert not bare.warnings
    carried = forecast(PLANS["enterprise"], workload, lists_carry_tokens=True)
    assert carried.full_sync_seconds == pytest.approx(1015 / 8)


def test_ten_million_grants_of_an_hour() -> None:
    """What Postgres needs for them: disk, write-ahead log, connections, and a vacuum that keeps up."""
    workload = Workload(users=10_000_000, logins_per_day=0, connections=10, token_life=3600, share=0)
    found = forecast(PLANS["enterprise"], workload, lists_carry_tokens=True)
    assert found.renewals_per_second == pytest.approx(10_000_000 / 2850)
    assert found.database.megabytes == pytest.approx(10_000 * GRANT_BYTES / 1e3)
    assert found.database.log_megabytes_per_day == pytest.approx(
        10_000_000 / 2850 * RENEWAL_LOG_BYTES * 86_400 / 1e6
    )
    log = 10_000_000 / 2850 * RENEWAL_LOG_BYTES * 300 / 1e6  # of five minutes, in MB
    assert 3 * log <= found.database.max_wal_size_megabytes < 3 * log + 1024
    assert found.database.connections == (found.workers + 1) * 20 + 45
    assert found.cores == found.workers + 2  # Postgres is busier than half a core allows
    assert found.database.vacuum_seconds == 60  # autovacuum looks no more often
    assert 1000 <= found.database.vacuum_cost_limit <= 2000  # by default it may do a sixth of that


def test_a_small_vault_needs_no_other_vacuum() -> None:
    """Postgres' own settings are enough for a hundred thousand grants, and nothing is vacuumed where nothing is renewed."""
    assert database_load(1_000_000, 351, 2).vacuum_cost_limit == 200
    assert database_load(100_000, 35.1, 1).max_wal_size_megabytes == 1024
    assert database_load(0, 0, 1).vacuum_seconds is None


def test_groups_go_side_by_side() -> None:
    """Where each group has a limit of its own, the slowest alone decides."""
    workload = Workload(users=500, logins_per_day=0, connections=6_000, token_life=3600, share=0)
    assert forecast(
        PLANS["professional"], workload, lists_carry_tokens=True
    ).full_sync_seconds == pytest.approx(72)


def test_an_hour_is_renewed_ten_minutes_early_or_a_little_more() -> None:
    """The mean of what chance does: 600 to 900 seconds before the end."""
    assert renewed_every(3600) == 3600 - 750


@given(plans, demands, st.booleans())
def test_more_costs_more(plan: str, workload: Workload, carried: bool) -> None:
    """More users, more logins, a larger share left: nothing of the forecast gets smaller."""
    before = forecast(PLANS[plan], workload, lists_carry_tokens=carried)
    more = Workload(
        workload.users + 1000,
        workload.logins_per_day + 1000,
        workload.connections + 100,
        workload.token_life,
        0.95,
    )
    after = forecast(PLANS[plan], more, lists_carry_tokens=carried)
    assert after.full_sync_seconds > before.full_sync_seconds
    assert after.renewals_per_second > before.renewals_per_second
    assert after.workers >= before.workers
    assert after.database.megabytes > before.database.megabytes
    assert after.database.log_megabytes_per_day > before.database.log_megabytes_per_day
    assert after.database.max_wal_size_megabytes >= before.database.max_wal_size_megabytes
    assert after.database.vacuum_cost_limit >= before.database.vacuum_cost_limit
    assert after.crawl_calls > before.crawl_calls


@given(plans, demands)
def test_lists_with_tokens_never_cost_more(plan: str, workload: Workload) -> None:
    """Tokens in lists save the calls for each user, and change nothing else of a day."""
    carried = forecast(PLANS[plan], workload, lists_carry_tokens=True)
    bare = forecast(PLANS[plan], workload, lists_carry_tokens=False)
    assert carried.full_sync_seconds <= bare.full_sync_seconds
    assert carried.daily_calls == bare.daily_calls
    assert bare.full_sync_calls["read_users"] - carried.full_sync_calls["read_users"] == workload.users


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("AUTH0_DOMAIN", "DATABASE_URL", "REDIS_URL", "TOKEN_VAULT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(tmp_path_factory.mktemp("home") / "none"))
    log_as_commands(monkeypatch)


def test_the_command_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a database or a tenant it shows both cases, with what it assumed."""
    assert main(["plan", "--plan", "essentials", "--users", "10000"]) == 0
    shown = capsys.readouterr()
    assert "lists with tokens" in shown.out
    assert "lists without tokens" in shown.out
    assert "one login a user and day is assumed" in shown.err


def test_a_plan_that_is_too_small_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a day's logins do not fit the limit, the exit code says so, and a warning by how much."""
    asked = ["plan", "--plan", "free", "--users", "500000", "--logins-per-day", "400000", "--json"]
    assert main([*asked, "--no-lists-carry-tokens"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert len(told["forecasts"]) == 1
    assert told["forecasts"][0]["load"] > 2
    assert "times what the limit allows" in told["forecasts"][0]["warnings"][0]


@pytest.mark.parametrize("arguments", [[], ["--users", "1", "--plan", "gold"], ["--measure"]])
def test_what_is_missing_is_named(arguments: list[str]) -> None:
    """Without users, with an unknown plan, or with nothing to measure, it is misused."""
    assert main(["plan", *arguments]) == 2


def tenant(request: Request) -> Answer:
    if request.path == "/api/v2/users":
        return Answer(
            200, {"start": 0, "limit": 1, "length": 1, "total": 4321, "users": [{"user_id": "a|1"}]}
        )
    if request.path == "/api/v2/connections":
        return Answer(
            200, {"connections": [{"id": f"con_{n}", "name": f"c{n}", "strategy": "oidc"} for n in range(3)]}
        )
    return Answer(200, [{"date": "2026-03-14T00:00:00.000Z", "logins": 77, "signups": 3}])


async def test_a_tenant_is_counted_in_three_calls() -> None:
    """Users, connections and yesterday's logins."""
    async with running() as server:
        server.api = tenant
        async with client_of(server, FakeTime()) as client:
            counts = await client.counts()
        assert (counts.users, counts.logins_per_day, counts.connections) == (4321, 77, 3)
        assert len(server.calls) == 3
        assert server.calls[-1].query == {"from": "20260314", "to": "20260314"}


def test_measured_counts_are_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--measure` takes the tenant's own counts; without read:stats it says what it assumed instead."""
    import asyncio
    import threading

    ready, loop = threading.Event(), asyncio.new_event_loop()
    port: list[int] = []

    async def serve() -> None:
        async with running() as server:
            server.api = lambda request: (
                Answer(403, {"statusCode": 403, "errorCode": "insufficient_scope"})
                if "stats" in request.path
                else tenant(request)
            )
            port.append(server.port)
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(WAIT_SECONDS)
    for name, value in (
        ("DOMAIN", f"http://127.0.0.1:{port[0]}"),
        ("CLIENT_ID", "x"),
        ("CLIENT_SECRET", "y"),
    ):
        monkeypatch.setenv(f"AUTH0_{name}", value)
    monkeypatch.setenv("AUTH0_PLAN", "enterprise")
    try:
        assert main(["plan", "--measure", "--json", "--lists-carry-tokens"]) == 0
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    told = json.loads(capsys.readouterr().out)
    assert (told["demand"]["users"], told["demand"]["connections"]) == (4321, 3)
    assert told["demand"]["logins_per_day"] == 4321
    assert told["notes"] == ["the application lacks read:stats: one login a user and day is assumed"]
