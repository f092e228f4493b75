"""How grants are kept: what the operator says of a provider, what its answers teach, and who reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.renewal.test_on_demand import one, refresh
from tests.support.readers import on_demand_worker, opening, pending
from tests.support.renewals import Renewals, opened
from tests.support.wait import until_async
from token_vault.secret import Secret
from worker.providers import registry
from worker.renewal import concurrency
from worker.renewal import engine as engines
from worker.renewal.engine import MAX_RENEWALS, RenewalEngine
from worker.renewal.http import http_client
from worker.renewal.on_demand import OnDemand
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver
from worker.runtime import Runtime
from worker.settings import Settings, load
from worker.vault import claims
from worker.vault.claims.spool import Spool

DAY = timedelta(days=1)
ON_READ = '[providers.google]\nrenew = "on-read"\n'


@asynccontextmanager
async def told(environment: Path, worker: Runtime, said: str) -> AsyncIterator[OnDemand]:
    """A worker started after the operator said this in the file; its ``engine`` beside it."""
    connections = ConnectionResolver(worker.vault, _settings(environment, said))
    async with http_client() as http:
        spool = Spool(worker.settings.spool, worker.vault.refresh)
        engine = RenewalEngine(worker.vault, connections, http, spool)
        yield OnDemand(worker.vault, connections, engine, listeners=2)


def _settings(environment: Path, said: str) -> Settings:
    """The settings with this at the end of the file, which stays as it was."""
    before = environment.read_text(encoding="utf-8")
    environment.write_text(f"{before}\n{said}\n", encoding="utf-8")
    try:
        return load()
    finally:
        environment.write_text(before, encoding="utf-8")


def answers(renewals: Renewals, fields: dict[str, Any]) -> None:
    """Let the next answer say this."""
    renewals.tenant.fail_next("/idp/c", 1, f"override:{json.dumps(fields)}")


def learned(renewals: Renewals) -> dict[str, Any]:
    """What the vault has been taught about connection ``c``."""
    [row] = renewals.sql(
        "SELECT observed_rotating, observed_grace, observed_life, observed_refresh_life FROM connections WHERE name = 'c'"
    )
    return row


# What the operator says


@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "absolute"])
async def test_the_unit_of_lives_is_the_operators_to_say(
    renewals: Renewals, environment: Path, unit: str
) -> None:
    """Half an hour is half an hour, in seconds, in milliseconds or as a point in time, and its renewal is due in it."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    ends = (await worker.vault.now() + timedelta(minutes=30)).timestamp()
    renewals.make_due()
    answers(
        renewals, {"expires_in": {"seconds": 1800, "milliseconds": 1_800_000, "absolute": int(ends)}[unit]}
    )
    async with told(environment, worker, f'[providers.oauth2]\nexpires_unit = "{unit}"') as there:
        assert await there._engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert timedelta(minutes=29) < row["expires_at"] - row["now"] <= timedelta(minutes=30)
    assert row["now"] < row["due_at"] < row["expires_at"]


async def test_a_default_life_and_a_margin_are_the_operators_to_say(
    renewals: Renewals, environment: Path
) -> None:
    """A provider that names no life is believed to grant the one that was said, and is asked so long before its end."""
    [user] = renewals.connect("c")
    renewals.tenant.configure_provider("c", access_life=None)
    worker = await renewals.synced()
    renewals.make_due()
    renewals.sql("UPDATE grants SET expires_at = NULL")
    said = "[providers.oauth2]\ndefault_life = 7200\nmargin = 2000"
    async with told(environment, worker, said) as there:
        assert await there._engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert row["expires_at"] - row["obtained_at"] == timedelta(hours=2)
    assert timedelta(seconds=2000) <= row["expires_at"] - row["due_at"] <= timedelta(seconds=3000)


# What answers teach


@pytest.mark.parametrize("said", ["", "[providers.google]\nrotates = false"])
async def test_a_provider_that_rotates_after_all(renewals: Renewals, environment: Path, said: str) -> None:
    """Another refresh token in an answer makes the next lost answer a doubt, unless the operator knows better."""
    [user] = renewals.connect("c", "google", "google-oauth2", rotates=True)
    worker = await renewals.synced()
    async with told(environment, worker, said) as there:
        renewals.make_due()
        assert await there._engine.renew_due(["default"]) == {Outcome.RENEWED: 1}
        assert learned(renewals)["observed_rotating"]
        renewals.make_due()
        renewals.tenant.fail_next("/idp/c", 1, "reset_before")
        outcome = Outcome.RETRY if said else Outcome.IN_DOUBT
        assert await there._engine.renew_due(["default"]) == {outcome: 1}
    assert renewals.row(user)["state"] == ("active" if said else "in_doubt")


async def test_an_answer_without_a_new_refresh_token_teaches_nothing(renewals: Renewals) -> None:
    """The same refresh token again, or none, makes no provider rotate, nor one that does stop."""
    renewals.connect("c", "google", "google-oauth2", refresh_in_answer=True)
    worker = await renewals.synced()
    for _ in range(2):
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert not learned(renewals)["observed_rotating"]
    renewals.sql("UPDATE connections SET observed_rotating = true")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert learned(renewals)["observed_rotating"]


async def test_the_shortest_life_seen_stands_in_for_one_that_is_missing(renewals: Renewals) -> None:
    """Lives that answers name are remembered, a longer one changes nothing, and a silent answer gets the shortest."""
    first, second = renewals.connect("c", users=2)
    worker = await renewals.synced()
    for seconds in (1200, 3000):
        renewals.make_due(first)
        answers(renewals, {"expires_in": seconds, "refresh_token_expires_in": seconds * 10})
        renewals.sql("UPDATE grants SET due_at = now() + interval '1 day' WHERE user_id = %s", second)
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    seen = learned(renewals)
    lives = timedelta(seconds=1200), timedelta(seconds=12_000)
    assert all(
        abs(seen[name] - life) < timedelta(seconds=1)
        for name, life in zip(("observed_life", "observed_refresh_life"), lives, strict=True)
    )
    renewals.sql("UPDATE grants SET expires_at = NULL WHERE user_id = %s", second)
    renewals.sql("UPDATE grants SET due_at = now() + interval '1 day' WHERE user_id = %s", first)
    renewals.make_due(second)
    answers(renewals, {"expires_in": None})
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(second)
    assert row["expires_at"] - row["obtained_at"] == seen["observed_life"]


@pytest.mark.parametrize("rotates", [False, True])
async def test_the_rest_of_one_grants_life_is_no_rule_for_the_others(
    renewals: Renewals, rotates: bool
) -> None:
    """A refresh token that ends for good, as LinkedIn's after a year, does not have its neighbours renewed all the time."""
    first, second = renewals.connect("c", "google", "google-oauth2", users=2, rotates=rotates)
    worker = await renewals.synced()
    renewals.sql("UPDATE grants SET refresh_expires_at = now() + interval '300 s' WHERE user_id = %s", first)
    for user, told in ((first, {"refresh_token_expires_in": 300}), (second, {})):
        renewals.sql("UPDATE grants SET due_at = now() + interval '1 day'")
        renewals.make_due(user)
        answers(renewals, told)
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(second)
    assert row["due_at"] - row["obtained_at"] > timedelta(minutes=40)
    assert learned(renewals)["observed_refresh_life"] is None


async def test_another_provider_forgets_what_one_has_shown(renewals: Renewals, environment: Path) -> None:
    """What answers have taught of one provider is not held against the next one on the connection."""
    renewals.connect("c")
    worker = await renewals.synced()
    renewals.sql(
        "UPDATE connections SET observed_rotating = true, observed_grace = 1, observed_life = '1 s', observed_refresh_life = '1 s'"
    )
    async with told(
        environment, worker, '[connections."c"]\nprovider = "acme"\n[providers.acme]\ngrace = 9'
    ) as there:
        [loaded] = (await there._connections.load(["default"], "c")).values()
    assert loaded.provider is not None
    assert loaded.provider.grace == 9
    assert set(learned(renewals).values()) == {False, None}


# Who reads


async def test_a_reader_of_a_fresh_token_has_its_read_noted(
    renewals: Renewals, environment: Path, database_url: Secret
) -> None:
    """Half a day after the last note a read is noted in the background, at no call to the provider, and once."""
    [user] = renewals.connect("c", "google", "google-oauth2")
    worker = await renewals.synced()
    async with (
        told(environment, worker, ON_READ) as there,
        opening("asyncio", database_url) as make,
    ):
        reader = make()
        await there.refresh(tenants=["default"], user_id=user, connection="c", min_ttl=3598)
        calls = len(renewals.token_calls("c"))
        renewals.sql(
            "UPDATE grants SET last_read_at = now() - interval '13 hours', due_at = now() + interval '9 days'"
        )
        assert (await reader.user_token(user, "c")).value
        await until_async(lambda: len(pending(renewals.sql)) == 1)
        worker.on_demand = there
        async with on_demand_worker(worker) as results:
            await until_async(lambda: len(results) == 1)
        row = renewals.row(user)
        assert row["now"] - row["last_read_at"] < timedelta(minutes=5)
        assert row["due_at"] < row["expires_at"]  # it is kept fresh from now on
        await reader.user_token(user, "c")
        assert pending(renewals.sql) == []
    assert len(renewals.token_calls("c")) == calls


async def test_a_note_from_before_does_not_make_readers_ask_for_ever(renewals: Renewals) -> None:
    """After a change back to eager an old note is renewed like any other: readers do not ask at each read."""
    worker, user = await one(renewals)
    renewals.sql("UPDATE grants SET last_read_at = now() - interval '30 days'")
    refreshed = await refresh(worker, user, min_ttl=0, by_operator=False)
    assert refreshed.outcome is Outcome.FRESH
    row = renewals.row(user)
    assert row["now"] - row["last_read_at"] < timedelta(minutes=5)


async def test_an_eager_connections_reads_are_not_noted(renewals: Renewals) -> None:
    """Where all is kept fresh anyway, a demand writes no note."""
    worker, user = await one(renewals)
    await refresh(worker, user, by_operator=False)
    assert renewals.row(user)["last_read_at"] is None


@pytest.mark.parametrize("end", ["known", "unknown"])
async def test_sleepers_wake_when_all_are_to_be_fresh_again(
    renewals: Renewals, environment: Path, end: str
) -> None:
    """A connection changed back to eager has its sleepers due within ten minutes, and leaves dead grants dead."""
    users = renewals.connect("c", "google", "google-oauth2", users=3)
    worker = await renewals.synced()
    renewals.make_due()
    async with told(environment, worker, ON_READ) as there:
        assert await there._engine.renew_due(["default"]) == {Outcome.UNSENT: 3}
    assert all(row["due_at"] - row["now"] > 60 * DAY for row in renewals.rows("c"))
    dead = users[0]
    renewals.sql(
        "UPDATE grants SET state = 'reauthorization_required', reason = 'invalid_grant', reason_since = now(),"
        " due_at = NULL WHERE user_id = %s",
        dead,
    )
    if end == "unknown":
        renewals.sql("UPDATE grants SET expires_at = NULL")
    await worker.connections.load(["default"])
    due = {row["user_id"]: row["due_at"] and row["due_at"] - row["now"] for row in renewals.rows("c")}
    assert due.pop(dead) is None
    assert all(
        timedelta(0) <= wait + timedelta(seconds=5) <= timedelta(minutes=10, seconds=5)
        for wait in due.values()
    )


# Insisting


async def test_an_app_that_insists_costs_a_dead_grant_one_call_a_day(renewals: Renewals) -> None:
    """However often an app forces a dead grant, its provider is asked once a day, by whichever worker."""
    worker, user = await one(renewals)
    another = await renewals.worker()
    renewals.tenant.revoke(user, "c")
    assert (await refresh(worker, user, by_operator=False)).outcome is Outcome.DEAD
    for day in (1, 2):
        for each in (worker, another, worker):
            refreshed = await refresh(each, user, force=True, by_operator=False)
            assert (refreshed.outcome, refreshed.state) == (Outcome.DEAD, "reauthorization_required")
        crowd = (refresh(each, user, force=True, by_operator=False) for each in (worker, another) * 4)
        await asyncio.gather(*crowd)
        assert len(renewals.token_calls("c")) == 1 + day
        renewals.sql("UPDATE grants SET forced_at = forced_at - interval '1 day'")


# Several in trouble


async def test_several_hanging_providers_do_not_starve_the_others(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While four providers hang, each with more due than a worker holds at once, the healthy ones are renewed."""
    for where in (engines, concurrency):
        monkeypatch.setattr(where, "STALLED_SECONDS", 0.5)
    hanging = [f"hangs-{number}" for number in range(4)]
    for name in hanging:
        renewals.connect(name, users=MAX_RENEWALS + 10)
    for name in ("well", "well-too"):
        renewals.connect(name, users=60)
    worker = await renewals.synced(connections=1000)
    renewals.make_due()
    for name in hanging:
        renewals.tenant.fail_next(
            f"/idp/{name}", 8, "delay:0"
        )  # the first go well, and ever more follow at once
        renewals.tenant.fail_next(f"/idp/{name}", 1000, "hang", carried_out=False)
    for name in ("well", "well-too"):  # those that hang have filled the window before these are through
        renewals.tenant.fail_next(f"/idp/{name}", 1000, "delay:0.2")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    try:
        await until_async(
            lambda: (
                {row["obtained_from"] for name in ("well", "well-too") for row in renewals.rows(name)}
                == {"renewal"}
            )
        )
        assert not running.done()
        under_way = renewals.sql("SELECT count(*) AS n FROM grants WHERE claim_owner IS NOT NULL")
        assert under_way[0]["n"] >= len(hanging)
    finally:
        renewals.tenant.clear_faults()
        while not running.done():
            renewals.tenant.release()
            await asyncio.wait([running], timeout=0.1)
    await running
    live = renewals.rows("well")[0]
    assert opened(worker.vault, live).access == renewals.tenant.live(live["user_id"], "well")["access_token"]


async def test_an_ordered_renewal_renews_everybody(renewals: Renewals, environment: Path) -> None:
    """After a leak every grant is renewed, those too that nobody reads; the order outlives the command."""
    users = renewals.connect("c", "bitbucket", "bitbucket", users=3)
    worker = await renewals.synced()
    renewals.make_due()
    await worker.engine.renew_due(["default"])
    leaked = {renewals.tenant.live(user, "c")["refresh_token"] for user in users}
    async with told(environment, worker, '[providers.bitbucket]\nrenew = "on-read"\n') as on_demand:
        engine = on_demand._engine
        renewals.make_due()
        assert set(await engine.renew_due(["default"])) == {Outcome.UNSENT}  # dormant
        now = await worker.vault.now()
        assert await claims.order_renewals(worker.vault, ["default"], now=now) == 3
        assert await claims.order_renewals(worker.vault, ["default"], now=now) == 0
        assert await claims.count_ordered(worker.vault, ["default"]) == 3
        outcomes = await engine.renew_due(["default"])  # as a worker does, which knows of no command
    assert outcomes == {Outcome.RENEWED: 3}
    assert await claims.count_ordered(worker.vault, ["default"]) == 0
    assert not leaked & {renewals.tenant.live(user, "c")["refresh_token"] for user in users}


async def test_a_loss_within_the_grace_teaches_how_short_it_is(renewals: Renewals) -> None:
    """A provider that refuses a second use within its declared grace is not retried that late again."""
    renewals.connect("c", "okta", "okta", grace=0.0)
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "reset_after", carried_out=True)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.IN_DOUBT: 1}
    declared = registry.get("okta").grace
    assert declared is not None
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.LOST: 1}
    assert 0 <= learned(renewals)["observed_grace"] < declared
    loaded = await worker.connections.load(["default"])
    provider = loaded["default", "c"].provider
    assert provider is not None
    assert provider.grace == learned(renewals)["observed_grace"]
