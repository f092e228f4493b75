"""One budget for all workers of a tenant, on a real Redis."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import httpx
import pytest
import redis as redis_client
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.auth0_server import Answer, FakeTime, client_of, running
from tests.support.simulated_time import START, SimulatedTime
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import embedded
from worker.auth0 import PLANS, Limit, RateLimitBudget
from worker.auth0.errors import Auth0RateLimited
from worker.auth0.ratelimit import budget as budgets
from worker.auth0.ratelimit import redis_buckets
from worker.auth0.ratelimit.bucket import BucketSlot, BucketTerms, ObservedLimits, TokenBucket
from worker.auth0.ratelimit.budget import ASSUMED_WORKER_PROCESSES, MAX_PAUSE_SECONDS, RateLimitPermit
from worker.auth0.ratelimit.redis_buckets import REDIS_RETRY_SECONDS, SCRIPT

Make = Callable[..., RateLimitBudget]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for Redis than a worker does: a busy machine would decide the outcome."""
    monkeypatch.setattr(redis_buckets, "REDIS_TIMEOUT_SECONDS", 30.0)


@pytest.fixture
def time() -> SimulatedTime:
    return SimulatedTime()


@pytest.fixture
async def make(redis_url: Secret, time: SimulatedTime) -> AsyncIterator[Make]:
    """Make the budget of one worker; each has its own connections."""
    async with AsyncExitStack() as stack:

        def budget(plan: str = "enterprise", **settings: object) -> RateLimitBudget:
            given: dict[str, Any] = {
                "redis_url": redis_url,
                "clock": time,
                "sleep": time.sleep,
                "share": 0.0,
            } | settings
            made = RateLimitBudget("acme", PLANS[plan], **given)
            stack.push_async_callback(made.aclose)
            return made

        yield budget


async def call(
    budget: RateLimitBudget,
    time: SimulatedTime,
    calls: list[float],
    number: int,
    *,
    urgent: bool = False,
    group: str = "logs",
) -> None:
    for _ in range(number):
        await budget.acquire(group, urgent=urgent)
        calls.append(time.passed)


def most_above(calls: list[float], rate: float) -> float:
    """The largest number of calls in any window, less what the rate allows for its length."""
    calls = sorted(calls)
    # For windows that begin at call i and end at call j: (j + 1 - i) - rate * (calls[j] - calls[i]).
    lowest, most = math.inf, 0.0
    for index, at in enumerate(calls):
        lowest = min(lowest, index - rate * at)
        most = max(most, index + 1 - rate * at - lowest)
    return most


@pytest.mark.parametrize("plan", ["free", "enterprise", "enterprise-dev"])
async def test_workers_share_one_budget_exactly(plan: str, make: Make, time: SimulatedTime) -> None:
    """In no window do five workers together make more calls than burst and rate allow, nor are they slower."""
    limit = PLANS[plan].limits["all"]
    calls: list[float] = []
    await time.run(*(call(make(plan), time, calls, 60) for _ in range(5)))
    assert most_above(calls, limit.per_second) <= limit.burst + 1e-3
    assert calls[-1] <= 300 / limit.per_second * 1.01 + 1


async def test_a_share_is_left_to_others(make: Make, time: SimulatedTime) -> None:
    """Of rate and burst, the configured share is never touched."""
    calls: list[float] = []
    budgets = [make(share=0.5) for _ in range(3)]
    await time.run(*(call(budget, time, calls, 100) for budget in budgets))
    assert most_above(calls, 8) <= 25 + 1e-3
    assert (300 - 25) / 8 <= calls[-1] <= 306 / 8 * 1.01


async def test_a_full_bucket_is_spent_at_once_and_no_more(make: Make, time: SimulatedTime) -> None:
    """After a quiet hour the burst is there for urgent calls; bulk calls leave a quarter of it."""
    budget = make(share=0.2)
    bulk: list[float] = []
    urgent: list[float] = []

    async def go() -> None:
        await budget.acquire("logs")
        await time.sleep(3600)
        await call(budget, time, bulk, 40)
        await call(budget, time, urgent, 20, urgent=True)

    await time.run(go())
    began = bulk[0]
    assert sum(at == began for at in bulk) == 35
    assert most_above(bulk + urgent, 12.8) <= 40 + 1e-3


async def test_limits_of_groups_are_apart(make: Make, time: SimulatedTime) -> None:
    """On a plan with a limit for each group, one that is spent does not hold another back."""
    users: list[float] = []
    connections: list[float] = []
    budget = make("professional")
    await time.run(
        call(budget, time, users, 100, group="read_users"),
        call(budget, time, connections, 10, group="connections"),
    )
    assert users[-1] == pytest.approx(105 * 60 / 500, rel=0.01)
    assert connections[-1] == pytest.approx(11 * 60 / 50, rel=0.01)


async def test_urgent_calls_come_first(make: Make, time: SimulatedTime) -> None:
    """While three workers make bulk calls without end, an urgent call waits for a slot or two."""
    waits: list[float] = []

    async def on_demand(budget: RateLimitBudget) -> None:
        for _ in range(20):
            await time.sleep(7.3)
            asked = time.passed
            await budget.acquire("logs", urgent=True)
            waits.append(time.passed - asked)

    for plan in ("free", "enterprise"):
        await time.run(on_demand(make(plan)), *(call(make(plan), time, [], 100) for _ in range(3)))
        slot = 1 / PLANS[plan].limits["all"].per_second
        assert max(waits) <= 3 * slot, plan
        waits.clear()


async def test_bulk_calls_do_not_starve(make: Make, time: SimulatedTime) -> None:
    """Where urgent calls alone would spend everything, a bulk call still gets its turn."""
    bulk: list[float] = []
    await time.run(
        call(make("free"), time, bulk, 3), *(call(make("free"), time, [], 40, urgent=True) for _ in range(6))
    )
    assert bulk[-1] < 60


@pytest.mark.parametrize(
    ("patience", "tokens"), [(0.5, 6), (0.0, 1)]
)  # a bulk call leaves five; one that has waited for long enough leaves none
async def test_a_bulk_call_leaves_a_reserve_until_it_has_waited(
    make: Make, time: SimulatedTime, monkeypatch: pytest.MonkeyPatch, patience: float, tokens: int
) -> None:
    """It waits for as many tokens as it has to leave, and for its own alone once its patience has ended."""
    monkeypatch.setattr(budgets, "MAX_BULK_WAIT_SECONDS", patience)
    calls: list[float] = []
    await time.run(call(make(), time, calls, 1))
    assert calls == [pytest.approx(tokens / 16, abs=0.001)]


async def test_a_worker_alone_is_as_fast_as_its_limit(make: Make, time: SimulatedTime) -> None:
    """Its bulk calls come at an even pace: none misses its slot."""
    calls: list[float] = []
    await time.run(call(make(), time, calls, 30))
    assert max(later - earlier for earlier, later in pairwise(calls)) <= 1.5 / 16


async def test_a_429_pauses_all_workers_once(make: Make, time: SimulatedTime) -> None:
    """What one worker is refused, all wait for, those too who have a slot already; then they come one by one."""
    calls: list[float] = []
    told = make()

    async def refused() -> None:
        await time.sleep(10.01)
        await told.pause("logs", 20)

    await time.run(refused(), *(call(make(), time, calls, 100) for _ in range(4)))
    assert not [at for at in calls if 10.01 < at < 30.01]
    after = [at for at in calls if at >= 30.01]
    assert len(after) == len(set(after)) > 200
    assert most_above([30.01, *after], 16) <= 1 + 1e-3


async def test_a_flush_costs_nothing_but_the_burst(
    make: Make, time: SimulatedTime, redis_url: Secret
) -> None:
    """After FLUSHALL the bucket is taken for empty: there is no second burst in it."""
    calls: list[float] = []

    async def flush() -> None:
        with redis_client.Redis.from_url(redis_url.reveal()) as connection:
            for _ in range(3):
                await time.sleep(4.7)
                connection.flushall()

    await time.run(flush(), *(call(make(), time, calls, 80) for _ in range(4)))
    assert most_above(calls, 16) <= 50 + 1e-3
    assert calls[-1] <= 320 / 16 * 1.1


async def test_headers_that_show_less_are_believed(make: Make, time: SimulatedTime) -> None:
    """Where other programs have emptied Auth0's bucket, calls slow down before a 429 comes."""
    budget = make(share=0.2)

    async def go() -> None:
        await budget.acquire("logs")
        await time.sleep(3600)
        grant = await budget.acquire("logs")
        budget.record_answer(grant, httpx.Headers({"x-ratelimit-limit": "50", "x-ratelimit-remaining": "3"}))
        asked = time.passed
        await budget.acquire("logs", urgent=True)
        # Three are left, of which others' ten are not ours: eight until there is one.
        assert time.passed - asked == pytest.approx(8 / 12.8, rel=0.01)

    await time.run(go())


async def test_headers_that_show_more_change_nothing(make: Make, time: SimulatedTime) -> None:
    """A bigger bucket at Auth0 than the plan's is no reason to go faster; it is told once."""
    calls: list[float] = []
    budget = make("free")

    async def go() -> None:
        for _ in range(50):
            grant = await budget.acquire("logs")
            calls.append(time.passed)
            budget.record_answer(
                grant, httpx.Headers({"x-ratelimit-limit": "50", "x-ratelimit-remaining": "49"})
            )

    with structlog.testing.capture_logs() as logs:
        await time.run(go())
    assert calls[-1] >= 49 / 2
    assert [entry["event"] for entry in logs] == ["rate_limit.plan_contradicted"]


async def test_clocks_of_workers_do_not_matter(redis_url: Secret) -> None:
    """Without an injected clock, time is that of Redis: what the worker's own clock says is never sent."""
    budget = RateLimitBudget("acme", PLANS["free"], redis_url=redis_url)
    grant = await budget.acquire("logs", urgent=True)
    await budget.aclose()
    with redis_client.Redis.from_url(redis_url.reveal()) as connection:
        seconds, _ = connection.time()
        held = connection.hgetall("token-vault:budget:acme:all")
    assert abs(grant.slot.at - seconds) < 30
    assert all(float(value) >= -2 for value in held.values())
    assert set(held) == {b"level", b"at", b"slots", b"pause", b"limit"}


async def test_a_wait_beyond_patience_is_refused(make: Make, time: SimulatedTime) -> None:
    """A call that would wait longer than a minute fails with the time to stay away, and takes no slot."""
    budget = make()
    await budget.pause("logs", 600)
    for urgent in (False, True):
        with pytest.raises(Auth0RateLimited) as over:
            await budget.acquire("logs", urgent=urgent)
        assert over.value.retry_after == pytest.approx(600 + 1 / 16, abs=1)


# Redis away


async def test_without_redis_each_worker_takes_a_small_part(make: Make, time: SimulatedTime) -> None:
    """As many workers as are assumed stay within the limit together, with no word between them."""
    calls: list[float] = []
    budgets = [make(share=0.2, redis_url=None) for _ in range(ASSUMED_WORKER_PROCESSES)]
    await time.run(*(call(budget, time, calls, 50) for budget in budgets))
    assert most_above(calls, 12.8) <= 40
    assert calls[-1] == pytest.approx(200 / 12.8, rel=0.1)


async def test_redis_that_dies_and_comes_back(
    time: SimulatedTime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A worker goes on by itself, says so once, and shares again once Redis is back."""
    home = tmp_path_factory.mktemp("redis")
    shared: list[bool] = []
    with structlog.testing.capture_logs() as logs:
        with embedded.servers(home, postgres=False, durable=False) as servers:
            budget = RateLimitBudget(
                "acme", PLANS["free"], redis_url=servers.redis_url, clock=time, sleep=time.sleep
            )

            async def ask(number: int) -> None:
                for _ in range(number):
                    shared.append((await budget.acquire("logs")).shared)

            await time.run(ask(3))
        await time.run(ask(3))
        with embedded.servers(home, postgres=False, durable=False):
            time.passed += REDIS_RETRY_SECONDS
            await time.run(ask(3))
            await budget.aclose()
    assert shared == [True] * 3 + [False] * 3 + [True] * 3
    assert [entry["event"] for entry in logs] == ["rate_limit.sharing_lost", "rate_limit.sharing_restored"]


async def test_a_redis_that_hangs_is_asked_once(time: SimulatedTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that takes connections and says nothing costs one short wait, not one for each call."""
    monkeypatch.setattr(redis_buckets, "REDIS_TIMEOUT_SECONDS", 0.25)
    taken: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    url = Secret(f"redis://:canary@127.0.0.1:{listener.sockets[0].getsockname()[1]}/0")
    budget = RateLimitBudget("acme", PLANS["enterprise"], redis_url=url, clock=time, sleep=time.sleep)
    with structlog.testing.capture_logs() as logs:
        await time.run(call(budget, time, [], 2))
    assert time.passed < REDIS_RETRY_SECONDS
    assert len(taken) == 1
    assert len(logs) == 1
    assert "canary" not in str(logs)
    await budget.aclose()
    listener.close()
    for writer in taken:
        writer.close()


def test_a_wrong_address_is_named_and_not_shown() -> None:
    """What is no address of Redis is the operator's to fix; the message does not show it."""
    with pytest.raises(ConfigurationError, match="REDIS_URL") as refused:
        RateLimitBudget("acme", PLANS["free"], redis_url=Secret("canary://x"))
    assert "canary" not in repr(refused.value.__context__) + str(refused.value)


# The bucket itself

actions = st.one_of(
    st.tuples(st.just("take"), st.floats(0, 3), st.sampled_from([0.0, 0.5, 60.0]), st.none()),
    st.tuples(
        st.just("take"),
        st.floats(0, 3),
        st.just(60.0),
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 3)),
    ),
    st.tuples(st.just("pause"), st.floats(0, 30), st.none(), st.none()),
)


@given(
    rate=st.floats(0.1, 50),
    burst=st.floats(1, 60),
    left=st.floats(0, 0.9),
    steps=st.lists(st.tuples(st.floats(-2, 20), actions), max_size=25),
)
# An answer of three calls ago: what was given since is no longer in Auth0's bucket.
@example(
    rate=0.1,
    burst=60.0,
    left=0.0,
    steps=[
        (0.0, ("take", 0.0, 0.0, None)),
        (200.0, ("take", 0.0, 60.0, None)),
        (0.0, ("take", 0.0, 60.0, None)),
        (0.0, ("take", 0.0, 60.0, None)),
        (0.0, ("take", 0.0, 60.0, (2, 20, 2))),
    ],
)
def test_the_script_is_the_model(
    servers: embedded.Servers,
    rate: float,
    burst: float,
    left: float,
    steps: list[tuple[float, tuple[Any, ...]]],
) -> None:
    """Whatever is asked in whatever order, the script in Redis answers as the bucket in Python does."""
    model, now = TokenBucket(Limit(rate, burst), left), 1_774_000_000.0
    slots: list[BucketSlot] = []
    with redis_client.Redis.from_url(servers.redis_url.reveal()) as connection:
        script = connection.register_script(SCRIPT)
        connection.delete("model")
        for passed, (kind, number, horizon, shown) in steps:
            now += passed
            told = [f"{now:.6f}", rate, burst, left]
            if kind == "pause":
                model.pause(now, float(number))
                script(keys=["model"], args=[*told, "pause", number])
                continue
            seen = None
            if shown is not None and slots:
                remaining, limit, ago = shown
                told_of = slots[max(-len(slots), -1 - ago)]
                seen = ObservedLimits(remaining, limit, told_of.number, told_of.at)
            terms = BucketTerms(float(number), float(horizon))
            words = ("", "", "", "") if seen is None else (seen.remaining, seen.limit, seen.slot, seen.at)
            expected = model.take(now, terms, seen)
            wait, given_number, *_ = script(
                keys=["model"], args=[*told, "take", terms.keep, terms.horizon, *words]
            )
            assert float(wait) == pytest.approx(expected.wait, abs=1e-3 + 1e-3 / rate)
            if abs(expected.wait - terms.horizon) > 1e-2 + 1e-2 / rate:
                assert int(given_number) == expected.number
            elif int(given_number) != expected.number:
                return  # a rounding error at the very edge of the horizon: from here on they differ
            slots += [expected] if expected.number else []


@given(
    limit=st.builds(Limit, st.floats(0.1, 50), st.floats(1, 60)),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    keep=st.floats(0, 10),
)
def test_a_bucket_never_gives_more_than_its_limit(limit: Limit, gaps: list[float], keep: float) -> None:
    """In no window are there more slots than burst and rate allow, whatever is seen meanwhile."""
    bucket, now = TokenBucket(limit), 0.0
    slots: list[float] = []
    for index, gap in enumerate(gaps):
        now += gap
        seen = (
            ObservedLimits(remaining=1000, limit=1000, slot=max(0, len(slots) - 1), at=now)
            if index % 3 == 0
            else None
        )
        slots.append(bucket.take(now, BucketTerms(keep if index % 2 else 0, 1e9), seen).at)
    assert most_above(slots, limit.per_second) <= limit.burst + 1e-6


# In the client


async def test_a_client_asks_before_each_call(redis_url: Secret) -> None:
    """Every call of a client, minting and retries among them, has a slot of its limit, and its answer is noted."""
    async with running() as server:
        time = FakeTime()
        server.script = [
            Answer(503),
            Answer(429, {}, {"Retry-After": "9"}),
            Answer(200, {"user_id": "auth0|1"}, {"x-ratelimit-limit": "40", "x-ratelimit-remaining": "7"}),
        ]
        budget, other = (
            RateLimitBudget("acme", PLANS["essentials"], redis_url=redis_url, clock=time, sleep=time.sleep)
            for _ in range(2)
        )
        acquire, asked = budget.acquire, list[tuple[str, bool]]()

        async def noted(group: str, *, urgent: bool = False, where: str = "") -> RateLimitPermit:
            asked.append((group, urgent))
            return await acquire(group, urgent=urgent, where=where)

        budget.acquire = noted  # type: ignore[method-assign]
        async with client_of(server, time, budget=budget) as client:
            await client.urgent.user("auth0|1")
        assert asked == [("other", False), *[("read_users", True)] * 3]
        with redis_client.Redis.from_url(redis_url.reveal()) as connection:
            keys = {name: f"token-vault:budget:acme:{name}" for name in ("other", "read_users")}
            slots = {name: connection.hget(key, "slots") for name, key in keys.items()}
            assert slots == {"other": b"1", "read_users": b"3"}
            pause = float(connection.hget(keys["read_users"], "pause") or 0)
        assert pause >= START.timestamp() + 9
        assert (await other.acquire("read_users")).slot.at > pause
        observed = budget._limits["read_users"].observed
        assert observed is not None
        assert (observed.remaining, observed.slot) == (7, 3)
        await other.aclose()


@pytest.mark.parametrize(
    ("group", "shown", "plan", "needless"),
    [
        ("read_users", "50", "enterprise", False),
        ("read_users", "40", "essentials", False),
        ("read_users", "2", "free", False),
        ("connections", "10", "free", False),
        ("read_users", None, "free", True),
        ("other", None, "free", False),
    ],
)
async def test_a_plan_that_nobody_named_is_told_by_the_answers(
    group: str, shown: str | None, plan: str, needless: bool
) -> None:
    """At first the smallest is kept, then the one whose limit is shown; where none is shown there is none."""
    budget = RateLimitBudget("default", PLANS["free"], presumed=True, sleep=lambda _: asyncio.sleep(0))
    grant = await budget.acquire(group)
    budget.record_answer(grant, httpx.Headers({} if shown is None else {"x-ratelimit-limit": shown}), group)
    assert (budget._plan.name, budget.is_unlimited) == (plan, needless)
    budget.record_answer(
        grant, httpx.Headers({"x-ratelimit-limit": "2"}), group
    )  # a late answer does no harm
    assert budget._plan.name == plan


@pytest.mark.parametrize(
    "written",
    [
        {"pause": "1e300"}, {"pause": "inf"}, {"pause": "nan"}, {"pause": "for ever"},
        {"level": "-1e300"}, {"level": "nan"}, {"at": "1e300"}, {"slots": "1e300"}, {"limit": "1e300"},
        {"level": "x", "at": "x", "slots": "x", "pause": "x", "limit": "x"},
    ],
)  # fmt: skip
async def test_what_others_write_stops_calls_for_minutes_at_most(
    make: Make, time: SimulatedTime, redis_url: Secret, written: dict[str, str]
) -> None:
    """Whoever may write to the budget in Redis cannot pause it for longer than a 429 could."""
    budget = make()

    async def call_again() -> None:
        await budget.acquire("other")
        with redis_client.Redis.from_url(redis_url.reveal()) as connection:
            connection.hset("token-vault:budget:acme:all", mapping=written)
        while time.passed < 3 * MAX_PAUSE_SECONDS:
            try:
                await budget.acquire("other")
            except Auth0RateLimited as error:
                await time.sleep(error.retry_after)
            else:
                return

    await time.run(call_again())
    assert time.passed <= 2 * MAX_PAUSE_SECONDS
    with redis_client.Redis.from_url(redis_url.reveal()) as connection:
        assert 0 < connection.ttl("token-vault:budget:acme:all") <= 86_400 + MAX_PAUSE_SECONDS


async def test_a_bucket_of_another_type_is_replaced(
    make: Make, time: SimulatedTime, redis_url: Secret
) -> None:
    """A key that is no bucket does not keep processes from sharing one."""
    budget = make()
    key = "token-vault:budget:acme:all"

    async def call_again() -> None:
        await budget.acquire("other")
        with redis_client.Redis.from_url(redis_url.reveal()) as connection:
            connection.delete(key)
            connection.lpush(key, "x")
            assert (await budget.acquire("other")).shared
            assert connection.type(key) == b"hash"

    await time.run(call_again())
