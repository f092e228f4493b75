"""Pauses: nothing of what the operator has stopped is sent, and it goes on when he says so."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest

from tests.support.keys import ACCESS_KEY
from tests.support.renewals import Renewals
from tests.support.wait import WAIT_SECONDS
from token_vault import TemporarilyUnavailable, TokenVault
from token_vault.secret import Secret
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.vault import pauses
from worker.vault.pauses import EVERYTHING, PauseScope

C = PauseScope("default", "c")


async def pause(worker: Runtime, scope: PauseScope = C, *, seconds: float | None = None) -> None:
    """Pause a scope, without an end or for some seconds."""
    now = await worker.vault.now()
    until = None if seconds is None else now + timedelta(seconds=seconds)
    await pauses.start(worker.vault, scope, reason="a move", by="ann", until=until, now=now)


async def resume(worker: Runtime, scope: PauseScope = C) -> None:
    """End the pauses of a scope."""
    await pauses.end(worker.vault, scope, by="ann", now=await worker.vault.now())


@pytest.mark.parametrize("scope", [C, PauseScope("default"), EVERYTHING], ids=str)
async def test_what_is_paused_sends_nothing(renewals: Renewals, scope: PauseScope) -> None:
    """Neither a batch nor whoever asks sends a refresh token of what is paused; after it both do."""
    [user] = renewals.connect("c")
    renewals.connect("another")
    worker = await renewals.synced()
    await pause(worker, scope)
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    asked = await worker.on_demand.refresh(
        tenants=["default"], user_id=user, connection="c", force=True, by_operator=True
    )
    assert renewals.token_calls("c") == []
    assert (asked.outcome, asked.state, asked.retry_after) == (Outcome.PAUSED, "paused", 60.0)
    assert len(renewals.token_calls("another")) == (1 if scope == C else 0)
    await resume(worker, scope)
    await worker.engine.renew_due(worker.tenants)
    assert len(renewals.token_calls("c")) == 1
    assert len(renewals.token_calls("another")) == 1


async def test_no_claim_is_made_between_the_look_and_the_call(renewals: Renewals) -> None:
    """A pause that comes after somebody looked for one, and before the claim, holds."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    resolved = (await worker.connections.load(["default"], "c"))["default", "c"]
    await pause(worker)
    assert await worker.engine.renew_one(renewals.row(user)["id"], connection=resolved) is Outcome.BUSY
    assert renewals.token_calls("c") == []


async def test_readers_get_what_has_life_left(renewals: Renewals, database_url: Secret) -> None:
    """A reader gets a fresh token, and of one that ends the error that says who has paused it."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.make_due()
    await worker.engine.renew_due(worker.tenants)
    await pause(worker, seconds=300)
    with TokenVault(database_url, [ACCESS_KEY], audit="off") as vault:
        assert renewals.tenant.holder(vault.user_token(user, "c", wait=0).value) is not None
        with pytest.raises(TemporarilyUnavailable, match="paused by the operator") as later:
            vault.user_token(user, "c", min_ttl=3600, wait=5)
    assert 200 < later.value.retry_after <= 300


async def test_a_call_under_way_is_seen_to_its_end(renewals: Renewals) -> None:
    """A pause during a call counts it, and its answer is stored."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "delay:1")
    renewal = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    async with asyncio.timeout(WAIT_SECONDS):
        await renewals.called("c")
        await pause(worker)
        assert await pauses.count_under_way(worker.vault, C, set()) == 1
        await renewal
    assert await pauses.count_under_way(worker.vault, C, set()) == 0
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_a_claim_that_is_about_to_be_committed_is_waited_for(
    renewals: Renewals, database_url: Secret
) -> None:
    """Whoever writes to grants as the pause begins counts as under way until its commit."""
    renewals.connect("c")
    worker = await renewals.synced()
    with psycopg.connect(database_url.reveal()) as claiming:
        claiming.execute("UPDATE grants SET awaited = awaited")
        await pause(worker)
        writers = await pauses.list_writers(worker.vault)
        assert await pauses.count_under_way(worker.vault, C, writers) == 1
        claiming.commit()
    assert await pauses.count_under_way(worker.vault, C, writers) == 0


async def test_what_became_due_comes_back_step_by_step(renewals: Renewals) -> None:
    """After a pause the first 32 grants are due, and the others one after the other."""
    renewals.connect("c", users=40)
    worker = await renewals.synced()
    await pause(worker)
    renewals.make_due()
    await resume(worker)
    [due] = renewals.sql("SELECT count(DISTINCT due_at) AS times FROM grants")
    assert due["times"] == 1 + 8


async def test_a_pause_ends_by_itself_and_is_told(renewals: Renewals) -> None:
    """The look after its end ends a pause; both are events, and recorded with who and why."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    await pause(worker, seconds=3600)
    renewals.make_due()
    renewals.sql("UPDATE pauses SET until = now()")
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.sql("SELECT 1 FROM pauses") == []
    assert renewals.holds_what_lives(worker.vault, user, "c")
    events = renewals.sql("SELECT kind, connection, reason, state FROM outbox ORDER BY at")
    assert [tuple(row.values()) for row in events] == [
        ("connection.paused", "c", "paused", "paused"),
        ("connection.resumed", "c", "paused", "active"),
    ]
    records = renewals.sql("SELECT outcome, connection, reason, source FROM audit_records ORDER BY id")
    assert [tuple(row.values()) for row in records] == [
        ("Paused", "c", "ann: a move", "command"),
        ("Resumed", "c", "its end", "command"),
    ]


async def test_the_longest_of_several_pauses_counts(renewals: Renewals) -> None:
    """A connection goes on only when no pause of it, its tenant or everything is left."""
    renewals.connect("c")
    worker = await renewals.synced()
    await pause(worker, seconds=60)
    await pause(worker, EVERYTHING)
    found = await pauses.find(worker.vault, "default", "c")
    assert found is not None
    assert found.scope == EVERYTHING
    await resume(worker)
    assert await pauses.find(worker.vault, "default", "c") == found
    await pause(worker)
    await resume(worker, EVERYTHING)
    assert await pauses.find(worker.vault, "default", "c") is None


async def test_tokens_that_end_meanwhile_are_counted(renewals: Renewals) -> None:
    """The tokens that end by the pause's end are counted, those of other connections are not."""
    renewals.connect("c", users=3, expires_in=1800)
    renewals.connect("another", expires_in=1800)
    worker = await renewals.synced()
    renewals.sql("UPDATE grants SET refresh_expires_at = now() + interval '2 days' WHERE connection = 'c'")
    now = await worker.vault.now()
    counts = await pauses.count_ending(worker.vault, C, until=None, now=now)
    assert [(each.access_tokens, each.refresh_tokens) for each in counts] == [(3, 0), (3, 0), (3, 3)]
    [until] = await pauses.count_ending(worker.vault, C, until=now + timedelta(minutes=5), now=now)
    assert (until.access_tokens, until.refresh_tokens) == (0, 0)


async def test_a_paused_tenant_is_not_synced(renewals: Renewals) -> None:
    """No call goes to a paused tenant; a login on a paused connection is ingested, as that spends nothing."""
    [user] = renewals.connect("c")
    worker = await renewals.synced()
    await pause(worker)
    renewals.tenant.login(user, "c")
    await renewals.sync(worker)
    assert renewals.holds_what_lives(worker.vault, user, "c")
    await pause(worker, PauseScope("default"))
    with pytest.raises(TemporarilyUnavailable, match=r"tenant default is paused by the operator \(a move\)"):
        await worker.tenant_sync("default")
