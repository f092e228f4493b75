"""Storms on one connection, on a clock of their own: few calls, no grant lost, and calm for all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.renewal.test_circuit_breaker import configured, wrong_secret
from tests.support.renewals import Renewals
from worker.renewal.engine import RenewalEngine
from worker.renewal.evidence import OUTAGE_GRANTS
from worker.renewal.http import http_client
from worker.renewal.on_demand import OnDemand
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver
from worker.runtime import Runtime
from worker.settings import load
from worker.vault.claims.spool import Spool
from worker.vault.connections.circuits import RECOVERY_BURST, RECOVERY_RATE

STORM = 200
CALM = 30
NEVER_MORE = RECOVERY_BURST + RECOVERY_RATE
"""Calls a second while a connection recovers."""


class Weather:
    """A vault with a connection that is in for trouble and one that is not, and the time there."""

    def __init__(self, renewals: Renewals) -> None:
        self.renewals = renewals
        self.now = datetime.now(UTC)
        self.lag = timedelta()

    def move(self, seconds: float) -> None:
        """Let time pass, for the workers and the providers."""
        self.now += timedelta(seconds=seconds)
        self.renewals.tenant.set_clock(self.now.timestamp())

    async def last(self, engine: RenewalEngine, seconds: float, tick: float) -> Counter[Outcome]:
        """Let time pass, a look at what is due in each tick; the calm connection's lag is kept."""
        outcomes: Counter[Outcome] = Counter()
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            for row in self.renewals.rows("calm"):
                assert row["expires_at"] > self.now
                self.lag = max(self.lag, self.now - row["due_at"])
            outcomes += await engine.renew_due(["default"])
            self.move(tick)
        return outcomes

    def calls(self) -> int:
        """Calls to the provider in trouble so far."""
        return len(self.renewals.token_calls("storm"))

    def busiest_second(self) -> int:
        """The most calls to the provider in trouble within one second."""
        return max(Counter(int(call["time"]) for call in self.renewals.token_calls("storm")).values())


async def weather(renewals: Renewals, **behaviour: Any) -> tuple[Weather, Runtime]:
    """Both connections synced, every token's renewal a few minutes away."""
    renewals.connect(
        "storm", **({"provider": "google", "strategy": "google-oauth2"} | behaviour), users=STORM
    )
    renewals.connect("calm", users=CALM)
    here = Weather(renewals)
    worker = await renewals.synced(now=lambda: here.now)
    here.move(44 * 60)
    return here, worker


async def test_a_fifth_is_revoked_at_once(renewals: Renewals) -> None:
    """Each revoked grant costs one call and is told; the others, and other connections, are renewed as ever."""
    here, worker = await weather(renewals)
    users = {row["user_id"] for row in renewals.rows("storm")}
    revoked = sorted(users)[: STORM // 5]
    for user in revoked:
        renewals.tenant.revoke(user, "storm")
    outcomes = await here.last(worker.engine, 30 * 60, 30)
    assert outcomes[Outcome.DEAD] == len(revoked)
    dead = {row["user_id"] for row in renewals.rows("storm") if row["state"] == "reauthorization_required"}
    assert dead == set(revoked)
    assert here.calls() == STORM
    assert here.lag <= timedelta(seconds=30)
    assert renewals.circuit("storm")["circuit_opened_at"] is None


@pytest.mark.parametrize("fault", ["503", "429", "reset_before"])
async def test_a_provider_is_down_for_an_hour(renewals: Renewals, fault: str) -> None:
    """An outage costs a handful of calls and no grant; afterwards all come back, never too many in one second."""
    here, worker = await weather(renewals)
    renewals.tenant.fail_next("/idp/storm", 5000, fault)
    await here.last(worker.engine, 3600, 30)
    assert OUTAGE_GRANTS <= here.calls() <= OUTAGE_GRANTS + 20
    [status] = renewals.sql("SELECT DISTINCT state FROM token_status WHERE connection = 'storm'")
    assert status["state"] == "active"
    renewals.tenant.clear_faults()
    renewals.tenant.reset_calls()
    await here.last(worker.engine, 5 * 60 + 60, 1)
    assert all(row["expires_at"] > here.now for row in renewals.rows("storm"))
    assert here.calls() == STORM
    assert here.busiest_second() <= NEVER_MORE
    assert here.lag <= timedelta(seconds=30)
    assert renewals.tenant.double_spends() == 0
    [spread] = renewals.sql(
        "SELECT max(due_at) - min(due_at) AS spread FROM grants WHERE connection = 'storm'"
    )
    assert spread["spread"] > timedelta(minutes=4)


async def test_a_strict_provider_is_down_for_an_hour(renewals: Renewals) -> None:
    """Where each unanswered call is a doubt, an outage puts as few grants in doubt as it costs calls, and loses none."""
    here, worker = await weather(renewals, provider="custom", strategy="oauth2")
    renewals.tenant.fail_next("/idp/storm", 5000, "503")
    await here.last(worker.engine, 3600, 30)
    doubtful = [row for row in renewals.rows("storm") if row["in_doubt_since"] is not None]
    assert len(doubtful) <= here.calls() <= OUTAGE_GRANTS + 20
    renewals.tenant.clear_faults()
    await here.last(worker.engine, 10 * 60, 5)
    assert renewals.states() == {"active"}
    assert all(row["expires_at"] > here.now for row in renewals.rows())
    assert renewals.tenant.double_spends() == 0


async def test_what_ends_first_comes_back_first(renewals: Renewals) -> None:
    """After an outage the grants whose tokens ended first are renewed first."""
    here, worker = await weather(renewals)
    renewals.tenant.fail_next("/idp/storm", 5000, "503")
    await here.last(worker.engine, 3600, 60)
    in_order = [row["user_id"] for row in sorted(renewals.rows("storm"), key=lambda row: row["expires_at"])]
    renewals.tenant.clear_faults()
    while await worker.engine.renew_due(["default"]) == {}:
        here.move(30)
    waiting = {row["user_id"]: row["due_at"] for row in renewals.rows("storm") if row["due_at"] > here.now
               and row["obtained_from"] == "auth0"}  # fmt: skip
    assert len(waiting) > STORM / 2
    assert sorted(waiting, key=lambda user: (waiting[user], in_order.index(user))) == [
        user for user in in_order if user in waiting
    ]


async def test_a_secret_expires_and_is_corrected(renewals: Renewals, environment: Path) -> None:
    """An hour with a wrong secret costs a handful of calls; once it is corrected, nobody comes back all at once."""
    renewals.connect("c", users=STORM)
    renewals.connect("calm", users=CALM)
    here = Weather(renewals)
    worker = await renewals.synced(now=lambda: here.now)
    here.move(44 * 60)
    wrong_secret(renewals, "c")
    await here.last(worker.engine, 3600, 30)
    assert len(renewals.token_calls("c")) <= 12
    assert renewals.states("c") == {"active"}
    renewals.tenant.reset_calls()
    async with configured(
        environment, worker, 'client_secret = "the-new-secret"', lambda: here.now
    ) as engine:
        await here.last(engine, 60, 1)
    assert all(row["obtained_from"] == "renewal" for row in renewals.rows("c"))
    calls = Counter(int(call["time"]) for call in renewals.token_calls("c"))
    assert calls.total() == STORM
    assert max(calls.values()) <= NEVER_MORE
    assert here.lag <= timedelta(seconds=30)


# On read


@asynccontextmanager
async def on_read(environment: Path, worker: Runtime, now: Callable[[], datetime]) -> AsyncIterator[OnDemand]:
    """A worker started after the operator had Google's grants renewed on read, within a day; its ``engine`` beside it."""
    with environment.open("a", encoding="utf-8") as config:
        config.write('[providers.google]\nrenew = "on-read"\nread_window = 86400\n')
    connections = ConnectionResolver(worker.vault, load())
    async with http_client() as http:
        engine = RenewalEngine(
            worker.vault, connections, http, Spool(worker.settings.spool, worker.vault.refresh), now=now
        )
        yield OnDemand(worker.vault, connections, engine, listeners=2)


async def test_a_grant_that_nobody_reads_sleeps_and_is_kept_alive(
    renewals: Renewals, environment: Path
) -> None:
    """Without a reader a year costs a handful of calls, and the refresh token never dies of idleness."""
    [user] = renewals.connect("c", "google", "google-oauth2")
    here = Weather(renewals)
    worker = await renewals.synced(now=lambda: here.now)
    async with on_read(environment, worker, lambda: here.now) as reading:
        renewals.make_due()
        for _ in range(73):
            await reading._engine.renew_due(["default"])
            here.move(5 * 86_400)
    assert 2 <= len(renewals.token_calls("c")) <= 5
    assert renewals.row(user)["state"] == "active"


async def test_a_grant_that_is_read_is_kept_fresh_for_the_window(
    renewals: Renewals, environment: Path
) -> None:
    """A request for a refresh wakes a sleeper, which is renewed ahead until the window after that read is over."""
    [user] = renewals.connect("c", "google", "google-oauth2")
    here = Weather(renewals)
    worker = await renewals.synced(now=lambda: here.now)
    async with on_read(environment, worker, lambda: here.now) as reading:
        await reading.refresh(tenants=["default"], user_id=user, connection="c", min_ttl=3500)
        assert renewals.row(user)["last_read_at"] is not None
        for _ in range(48 * 6):
            await reading._engine.renew_due(["default"])
            here.move(600)
    assert 24 <= len(renewals.token_calls("c")) <= 40
    assert renewals.row(user)["due_at"] > here.now + timedelta(days=60)
