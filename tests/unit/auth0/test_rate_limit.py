"""The token bucket and the plans, by the number: what a call waits, and what an answer changes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import structlog
from redis.exceptions import RedisError

from tests.support.simulated_time import SimulatedTime
from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker import instruments
from worker.auth0 import PLANS, Limit, RateLimitBudget
from worker.auth0.errors import Auth0RateLimited
from worker.auth0.ratelimit.bucket import BucketSlot, BucketTerms, ObservedLimits, TokenBucket
from worker.auth0.ratelimit.budget import RateLimitPermit
from worker.auth0.ratelimit.plans import Plan, presume_plan
from worker.auth0.ratelimit.redis_buckets import RedisBuckets

AT = 1000.0
URGENT = BucketTerms(keep=0, horizon=60)
AT_ONCE = BucketTerms(keep=0, horizon=0)


def bucket(level: int = 0, left: float = 0.0) -> TokenBucket:
    """A bucket of 8 tokens, two a second, that holds so many at ``AT``."""
    made = TokenBucket(Limit(2, 8), left)
    made.take(AT - 100, BucketTerms(0, -1))
    for _ in range(8 - level):
        made.take(AT, AT_ONCE)
    return made


def waits(made: TokenBucket, count: int, now: float = AT, terms: BucketTerms = URGENT) -> list[float]:
    return [made.take(now, terms).wait for _ in range(count)]


def test_a_new_bucket_is_empty() -> None:
    """Its first slots lie ahead, one after the other."""
    made = TokenBucket(Limit(2, 8))
    assert made.take(AT, URGENT) == BucketSlot(0.5, 1, AT + 0.5, 0.0)
    assert made.take(AT, URGENT) == BucketSlot(1.0, 2, AT + 1.0, 0.0)


def test_a_bucket_fills_up_to_its_burst() -> None:
    """After a long time as many slots as it holds are there at once."""
    assert waits(bucket(8), 10) == [0] * 8 + [0.5, 1.0]


def test_tokens_come_back_with_time() -> None:
    """What was taken ahead is paid back first, and a clock that goes back takes nothing away."""
    made = bucket(0)
    assert waits(made, 2) == [0.5, 1.0]
    assert waits(made, 1, AT + 2) == [0]
    assert waits(made, 1, AT + 2) == [0]
    assert waits(made, 1, AT + 1) == [0.5]


@pytest.mark.parametrize(("horizon", "number"), [(0.5, 9), (0.49, 0)])
def test_a_slot_beyond_the_horizon_is_not_given(horizon: float, number: int) -> None:
    """A slot at the horizon is given, and one beyond it is told and not taken."""
    made = bucket(0)
    assert made.take(AT, BucketTerms(0, horizon)) == BucketSlot(0.5, number, AT + 0.5, 0.0)
    assert waits(made, 1) == [1.0 if number else 0.5]


def test_tokens_are_kept_for_more_urgent_calls() -> None:
    """A call that keeps two waits until three are there; more than the bucket holds is not waited for."""
    patient = BucketTerms(keep=2, horizon=60)
    assert waits(bucket(4), 3, terms=patient) == [0, 0, 0.5]
    assert waits(bucket(8), 1, terms=BucketTerms(keep=20, horizon=60)) == [0]


def test_a_pause_empties_the_bucket_and_ends_with_the_last_one() -> None:
    """The longer of two pauses counts; then tokens come one by one."""
    made = bucket(8)
    made.pause(AT, 10)
    made.pause(AT, 4)
    assert made.take(AT, URGENT) == BucketSlot(10.5, 9 - 8, AT + 10.5, AT + 10)
    assert waits(made, 1, AT + 10) == [1.0]
    assert waits(made, 1, AT + 11) == [0.5]


def test_a_pause_forgives_nothing_that_was_taken_ahead() -> None:
    """Slots that lie ahead keep their debt over a pause."""
    made = bucket(0)
    waits(made, 3)
    made.pause(AT, 10)
    assert waits(made, 1) == [10 + 2.0]


@pytest.mark.parametrize(
    ("observed", "left", "wait"),
    [
        (ObservedLimits(3, 8, 8, AT), 0.0, [0, 0, 0, 0.5]),
        (ObservedLimits(3, 8, 8, AT), 0.25, [0, 0.5]),  # two of the three are others'
        (ObservedLimits(3, 8, 6, AT), 0.0, [0, 0.5]),  # two were taken since
        (ObservedLimits(3, 8, 8, AT - 1), 0.0, [0] * 5 + [0.5]),  # two have come since
        (ObservedLimits(100, 8, 8, AT), 0.0, [0] * 7 + [0.5]),  # one stays
        (ObservedLimits(100, 9, 8, AT), 0.0, [0] * 8 + [0.5]),
        (ObservedLimits(3, 8, 9, AT), 0.0, [0] * 8 + [0.5]),  # of a slot that this bucket never gave
        (ObservedLimits(100, 5, 8, AT), 0.0, [0] * 4 + [0.5]),  # a smaller bucket than the plan's, less one
        (ObservedLimits(100, 5, 8, AT), 0.4, [0] * 3 + [0.5]),
        (ObservedLimits(100, 1, 8, AT), 0.0, [0, 0.5]),
        (ObservedLimits(100, 0.5, 8, AT), 0.0, [0] * 8 + [0.5]),
        (ObservedLimits(100, 100, 8, AT), 0.0, [0] * 8 + [0.5]),
    ],
)
def test_what_auth0_shows_lowers_the_level(observed: ObservedLimits, left: float, wait: list[float]) -> None:
    """Auth0's bucket counts where it holds less, but for others' share and what was taken or came since."""
    made = bucket(0, left)
    full_at = AT + 4
    shifted = ObservedLimits(observed.remaining, observed.limit, observed.slot, observed.at + 4)
    found = [made.take(full_at, URGENT, shifted).wait, *waits(made, len(wait) - 1, full_at)]
    assert found == pytest.approx(wait)


def test_a_bucket_leaves_nothing_to_others_unless_told() -> None:
    """Without a share all of Auth0's tokens but one are this bucket's."""
    made = TokenBucket(Limit(2, 8))
    made.take(AT, URGENT)
    assert made.take(AT + 100, URGENT, ObservedLimits(1, 20, 1, AT + 100)).wait == 0


def test_tokens_that_come_in_a_pause_are_not_counted() -> None:
    """What Auth0 showed before a pause has not grown during it."""
    made = bucket(0)
    made.pause(AT, 4)
    assert made.take(AT + 5, URGENT, ObservedLimits(0, 8, 8, AT)).wait == 0
    assert made.take(AT + 5, URGENT, ObservedLimits(0, 8, 9, AT + 5)).wait == 0.5


# Plans


def test_the_plans_are_as_auth0_documents_them() -> None:
    """Calls a second, and at once."""
    self_service = {
        "read_users": Limit(500 / 60, 40),
        "connections": Limit(50 / 60, 5),
        "logs": Limit(100 / 60, 10),
        "other": Limit(150 / 60, 10),
    }
    assert {name: dict(plan.limits) for name, plan in PLANS.items()} == {
        "free": {"all": Limit(2, 2)},
        "essentials": self_service,
        "professional": self_service,
        "enterprise": {"all": Limit(16, 50)},
        "enterprise-dev": {"all": Limit(2, 10)},
    }


@pytest.mark.parametrize(
    ("group", "burst", "plan"),
    [
        ("read_users", 50, "enterprise"), ("logs", 50, "enterprise"), ("read_users", 49, "essentials"),
        ("read_users", 30, "essentials"), ("read_users", 29, "free"), ("logs", 49, "free"),
    ],
)  # fmt: skip
def test_a_plan_is_known_by_its_burst(group: str, burst: float, plan: str) -> None:
    """The smallest plan is presumed where the burst names no larger one."""
    assert presume_plan(group, burst) == plan


@pytest.mark.parametrize(
    ("limit", "share", "ours"),
    [
        (Limit(16, 50), 0.2, Limit(12.8, 40)),
        (Limit(16, 50), 0.0, Limit(16, 49)),  # one stays
        (Limit(2, 2), 0.5, Limit(1, 1)),
        (Limit(2, 1), 0.5, Limit(1, 1)),
    ],
)
def test_a_share_of_a_limit_is_left(limit: Limit, share: float, ours: Limit) -> None:
    """Others' share is left, one token at least where there is more than one, and one is ours in any case."""
    assert limit.without(share) == ours


def test_each_group_has_a_limit() -> None:
    """A group without a limit of its own counts under the common one, which no plan is without."""
    assert PLANS["free"].limit_name("logs") == "all"
    assert PLANS["essentials"].limit_name("logs") == "logs"
    assert PLANS["essentials"].limit_name("tenants") == "other"
    with pytest.raises(ConfigurationError, match="plan mine must name the group all, or other"):
        Plan("mine", {"logs": Limit(1, 1)})


# The budget of one process


def test_a_redis_that_cannot_be_reached_is_logged_without_its_address(time: SimulatedTime) -> None:
    """The error of a client may contain the address, with its password."""
    address = "redis://:canary@127.0.0.1:1/0"
    buckets = RedisBuckets("acme", Secret(address), share=0.2, clock=None, now=lambda: time().timestamp())
    with structlog.testing.capture_logs() as logs:
        buckets._leave_alone(RedisError(f"cannot connect to {address}"))
    assert [(log["event"], log["error"]) for log in logs] == [("rate_limit.sharing_lost", "RedisError")]


@pytest.fixture
def time() -> SimulatedTime:
    return SimulatedTime()


def budget_of(time: SimulatedTime, plan: str = "enterprise", **settings: bool) -> RateLimitBudget:
    """A budget of a process alone, which takes a quarter: 3.2 calls a second, and 10 at once."""
    return RateLimitBudget("acme-alone", PLANS[plan], clock=time, sleep=time.sleep, **settings)  # type: ignore[arg-type]


async def test_a_process_alone_takes_a_quarter_of_what_is_ours(time: SimulatedTime) -> None:
    """Without Redis a process takes a fourth of the plan, less a fifth for others."""
    budget, starts = budget_of(time), []

    async def go() -> None:
        await budget.acquire("logs")
        await time.sleep(60)
        for _ in range(12):
            await budget.acquire("logs")
            starts.append(time.passed)

    await time.run(go())
    first = starts[0]
    assert [at - first for at in starts] == pytest.approx([0] * 10 + [1 / 3.2, 2 / 3.2])


async def test_waits_and_calls_left_are_measured(time: SimulatedTime) -> None:
    """The metrics say how long calls waited, and how many Auth0 has left."""
    budget = budget_of(time, "essentials")
    waited = instruments.auth0_waits.labels("acme-alone", "logs")
    before = waited._value.get()
    instruments.auth0_calls_left.labels("acme-alone", "logs").set(0)

    async def go() -> None:
        permit = await budget.acquire("logs", urgent=True)
        budget.record_answer(permit, httpx.Headers({"x-ratelimit-remaining": "7"}), "logs")

    await time.run(go())
    assert waited._value.get() - before == pytest.approx(4 / (100 / 60 * 0.8))
    assert instruments.auth0_calls_left.labels("acme-alone", "logs")._value.get() == 7


async def test_a_pause_of_a_process_alone_holds_waiting_calls_back(time: SimulatedTime) -> None:
    """A call that has its slot already waits again where a pause came meanwhile."""
    budget, starts = budget_of(time, "free"), []

    async def call() -> None:
        await budget.acquire("logs", urgent=True)
        starts.append(time.passed)

    async def refuse() -> None:
        await time.sleep(0.5)
        await budget.pause("logs", 20)

    await time.run(call(), refuse())
    assert len(starts) == 1
    assert starts[0] > 20.5


@pytest.mark.parametrize(("asked", "kept"), [(100, 100), (900, 900), (10_000, 900)])
async def test_a_pause_has_a_longest(time: SimulatedTime, asked: float, kept: float) -> None:
    """However long a pause Auth0 asks for, calls come again after a quarter of an hour."""
    budget = budget_of(time)
    await budget.pause("logs", asked)
    with pytest.raises(Auth0RateLimited) as refused:
        await budget.acquire("logs", urgent=True)
    assert refused.value.retry_after == pytest.approx(kept, abs=1)


@pytest.mark.parametrize(("shown", "logged"), [("50", 0), ("30", 1)])
async def test_another_plan_is_warned_of_once(time: SimulatedTime, shown: str, logged: int) -> None:
    """A burst that is not the plan's is logged at its first answer alone."""
    budget = budget_of(time)

    async def go() -> None:
        for _ in range(3):
            budget.record_answer(await budget.acquire("logs"), httpx.Headers({"x-ratelimit-limit": shown}))

    with structlog.testing.capture_logs() as logs:
        await time.run(go())
    assert len(logs) == logged


@pytest.mark.parametrize(
    ("plan", "reserve", "horizon"),
    [("enterprise", 5.0, 0.25), ("free", 0.0, 0.625), ("enterprise-dev", 2.0, 0.625)],
)
def test_bulk_calls_leave_a_quarter(time: SimulatedTime, plan: str, reserve: float, horizon: float) -> None:
    """Bulk calls leave up to five tokens, none of a small bucket, and reach one slot ahead at least."""
    limit = budget_of(time, plan)._limits["all"]
    assert (limit.reserve, limit.horizon) == (reserve, horizon)


async def test_the_defaults_leave_a_fifth_and_wait_a_minute(time: SimulatedTime) -> None:
    """Without settings a fifth is others', and a call that would wait for more than a minute is refused."""
    budget = budget_of(time)
    assert budget._limits["all"].limit == Limit(12.8, 40)
    assert not budget.is_unlimited
    await budget.pause("logs", 59)

    async def go() -> None:
        await budget.acquire("logs", urgent=True)

    await time.run(go())
    await budget.pause("logs", 60)
    with pytest.raises(Auth0RateLimited):
        await budget.acquire("logs", urgent=True)


def permit_of(number: int, *, shared: bool = True) -> RateLimitPermit:
    return RateLimitPermit("all", BucketSlot(0.0, number, AT, 0.0), shared)


def test_the_latest_answer_counts(time: SimulatedTime) -> None:
    """Of answers that overtake each other the one of the latest slot is noted, the last of equal ones."""
    budget = budget_of(time)

    def noted(number: int, left: int, *, shared: bool = True) -> ObservedLimits | None:
        headers = httpx.Headers({"x-ratelimit-remaining": str(left)})
        budget.record_answer(permit_of(number, shared=shared), headers, "logs")
        return budget._limits["all"].observed

    assert noted(4, 9, shared=False) is None
    assert noted(5, 8) == ObservedLimits(8, 0.0, 5, AT)
    assert noted(4, 7) == ObservedLimits(8, 0.0, 5, AT)
    assert noted(6, 7, shared=False) == ObservedLimits(8, 0.0, 5, AT)
    assert noted(5, 6) == ObservedLimits(6, 0.0, 5, AT)


def test_a_presumed_plan_that_is_shown_is_gone_by(time: SimulatedTime) -> None:
    """Where the answers show the presumed plan its bucket is noted, and where they show none there is no limit."""
    budget = budget_of(time, "free", presumed=True)
    budget.record_answer(
        permit_of(1), httpx.Headers({"x-ratelimit-limit": "2", "x-ratelimit-remaining": "1"}), "logs"
    )
    assert budget._limits["all"].observed == ObservedLimits(1, 2.0, 1, AT)
    states = [budget.is_unlimited]
    budget.record_answer(permit_of(2), httpx.Headers({"x-ratelimit-remaining": "0"}), "logs")
    assert [*states, budget.is_unlimited] == [False, True]
    assert budget._limits["all"].observed == ObservedLimits(1, 2.0, 1, AT)


def test_a_named_plan_stays(time: SimulatedTime) -> None:
    """What the operator has named is not changed for what answers show."""
    budget = budget_of(time, "free")
    budget.record_answer(permit_of(1), httpx.Headers({}), "logs")
    budget.record_answer(permit_of(1), httpx.Headers({"x-ratelimit-limit": "50"}), "logs")
    assert not budget.is_unlimited
    assert budget._plan is PLANS["free"]


async def test_all_buckets_fill_from_the_first_call_on(time: SimulatedTime) -> None:
    """A group that is called late finds what has come since the process began, and no more of it than one bucket."""
    budget = budget_of(time, "essentials")

    async def go() -> None:
        await budget.acquire("logs", urgent=True)
        await time.sleep(600)
        before = time.passed
        for _ in range(8):  # a quarter of 32
            await budget.acquire("read_users", urgent=True)
        assert time.passed == before
        await budget.acquire("read_users", urgent=True)
        assert time.passed > before

    await time.run(go())


# Without Redis, by the second

SLOW = Plan("slow", {"all": Limit(1.0, 2.0)})
"""Of which a process alone takes a call in four seconds, one at a time."""


def slow_budget(time: SimulatedTime, slept: list[float]) -> RateLimitBudget:
    """A budget that notes how long its calls sleep."""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await time.sleep(seconds)

    return RateLimitBudget("acme", SLOW, share=0.0, clock=time, sleep=sleep)


async def made_at(
    budget: RateLimitBudget, time: SimulatedTime, number: int, *, urgent: bool = False
) -> tuple[float, ...]:
    """Say when so many calls were made that were asked for at once."""
    made: list[float] = []

    async def call() -> None:
        await (budget.acquire("logs", urgent=True) if urgent else budget.acquire("logs"))
        made.append(time.passed)

    await time.run(*(call() for _ in range(number)))
    return tuple(made)


async def test_a_process_alone_keeps_its_slots_apart(time: SimulatedTime) -> None:
    """Each urgent call has a slot of its own, the first one at once where one is there, without a sleep."""
    slept: list[float] = []
    budget = slow_budget(time, slept)
    await made_at(budget, time, 1, urgent=True)
    time.passed += 3600
    slept.clear()
    began = time.passed
    assert await made_at(budget, time, 4, urgent=True) == (began, began + 4, began + 8, began + 12)
    assert slept == [4, 8, 12]


async def test_a_bulk_call_takes_its_slot_once_that_is_the_next(time: SimulatedTime) -> None:
    """It reaches one slot ahead, sleeps until it can, and is what a call is unless it says otherwise."""
    slept: list[float] = []
    budget = slow_budget(time, slept)
    await made_at(budget, time, 1)
    assert slept == [4]
    await budget.pause("logs", 3)
    await made_at(budget, time, 1)
    assert slept == [4, 6, 1]


async def test_the_longest_wait_is_still_waited_for(time: SimulatedTime) -> None:
    """A bulk call whose slot lies a minute ahead is made then."""
    budget = slow_budget(time, [])
    await made_at(budget, time, 1, urgent=True)
    await budget.pause("logs", 56)
    assert await made_at(budget, time, 1) == (64,)


async def test_buckets_are_started_once(time: SimulatedTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call looks at each bucket, and no later one does."""
    budget = budget_of(time, "professional")
    asked: list[str] = []
    take = budget._take_slot

    async def noted(limit: Any, terms: BucketTerms) -> RateLimitPermit:
        asked.append(limit.name)
        return await take(limit, terms)

    monkeypatch.setattr(budget, "_take_slot", noted)
    await made_at(budget, time, 1, urgent=True)
    assert set(asked) == set(PLANS["professional"].limits)
    asked.clear()
    await made_at(budget, time, 1, urgent=True)
    assert len(asked) == 1
