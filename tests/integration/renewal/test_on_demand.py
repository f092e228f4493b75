"""One grant, now: one call however many ask, none where none may be made, and an answer that says how it stands."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.support.renewals import Renewals, opened
from tests.support.wait import WAIT_SECONDS
from token_vault.errors import TokenNotFound
from token_vault.read_model import CHANNEL
from token_vault.secret import Secret
from worker.renewal import on_demand
from worker.renewal.on_demand import Refreshed
from worker.renewal.outcome import IN_DOUBT_RETRY_MARGIN, Outcome
from worker.runtime import Runtime

LONG = 3500.0
"""More life than any synced token has left here, and less than a new one has."""


async def refresh(
    worker: Runtime, user: str, connection: str = "c", *, min_ttl: float | None = LONG, force: bool = False,
    by_operator: bool = True,
) -> Refreshed:  # fmt: skip
    """Ask for a grant's fresh token."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await worker.on_demand.refresh(
            tenants=["default"], user_id=user, connection=connection, min_ttl=min_ttl, force=force,
            by_operator=by_operator,
        )  # fmt: skip


async def one(
    renewals: Renewals,
    provider: str = "custom",
    strategy: str = "oauth2",
    *,
    left: float = 1800,
    answer_seconds: float = 20,
) -> tuple[Runtime, str]:
    """One synced grant whose token has so many seconds left, not due for renewal."""
    [user] = renewals.connect("c", provider, strategy, expires_in=left)
    worker = await renewals.synced(answer_seconds=answer_seconds)
    renewals.sql("UPDATE grants SET due_at = now() + interval '10 min' WHERE due_at IS NOT NULL")
    return worker, user


# One call


async def test_a_crowd_makes_one_call(renewals: Renewals) -> None:
    """64 who ask for one grant at the same time, in two workers, make one call and all get its token."""
    worker, user = await one(renewals)
    another = await renewals.worker()
    renewals.tenant.fail_next("/idp/c", 1, "delay:0.5")
    found = await asyncio.gather(*(refresh((worker, another)[n % 2], user) for n in range(64)))
    assert len(renewals.token_calls("c")) == 1
    assert {refreshed.state for refreshed in found} == {"active"}
    assert len({refreshed.expires_at for refreshed in found}) == 1
    assert Counter(refreshed.outcome for refreshed in found)[Outcome.RENEWED] == 1
    assert renewals.holds_what_lives(worker.vault, user, "c")


@pytest.mark.parametrize("fault", [None, "429", "error:invalid_grant"])
async def test_who_decided_on_an_older_state_makes_no_call(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    """Who saw the grant before another's call and comes to claim it afterwards looks again, and makes no call."""
    worker, user = await one(renewals)
    late, has_read, meanwhile = await renewals.worker(), asyncio.Event(), asyncio.Event()
    load = late.connections.load

    async def hesitate(*arguments: Any) -> Any:
        has_read.set()
        await meanwhile.wait()
        return await load(*arguments)

    monkeypatch.setattr(late.connections, "load", hesitate)
    waiting = asyncio.create_task(refresh(late, user))
    await has_read.wait()
    if fault:
        renewals.tenant.fail_next("/idp/c", 1, fault)
    first = await refresh(worker, user)
    meanwhile.set()
    second = await waiting
    assert second.state == first.state
    assert second.renewed == first.renewed
    assert len(renewals.token_calls("c")) == 1


async def test_a_crowd_that_forces_makes_one_call(renewals: Renewals) -> None:
    """Those who force a renewal while one is under way are content with that one."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    first = asyncio.create_task(refresh(worker, user, force=True))
    await renewals.called("c")
    others = [asyncio.create_task(refresh(worker, user, force=True)) for _ in range(4)]
    await renewals.waited_for(4)
    renewals.tenant.release()
    found = await asyncio.gather(*others)
    assert (await first).renewed
    assert all(refreshed.renewed for refreshed in found)
    assert len(renewals.token_calls("c")) == 1


async def test_a_crowd_for_many_slow_grants_leaves_room_to_commit(renewals: Renewals) -> None:
    """However many wait, the calls they wait for still get a connection to Postgres to be committed over."""
    users = renewals.connect("c", users=24, expires_in=1800)
    worker = await renewals.synced()
    bulk = await renewals.worker()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "delay:0")
    renewals.tenant.fail_next("/idp/c", 100, "delay:0.7")
    running = asyncio.create_task(bulk.engine.renew_due(bulk.tenants))
    await renewals.called("c", 20)
    found = await asyncio.gather(*(refresh(worker, user) for user in users * 2))
    assert await running == {Outcome.RENEWED: 24}
    assert all(refreshed.expires_at for refreshed in found)
    assert renewals.tenant.double_spends() == 0
    assert len(renewals.token_calls("c")) == 24


async def test_who_waits_is_woken_by_the_end(renewals: Renewals) -> None:
    """Who comes while a batch renews the grant gets that renewal's token as soon as it is there."""
    worker, user = await one(renewals)
    bulk = await renewals.worker()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(bulk.engine.renew_due(bulk.tenants))
    await renewals.called("c")
    waiting = asyncio.create_task(refresh(worker, user))
    await renewals.waited_for()
    renewals.tenant.release()
    await running
    refreshed = await waiting
    assert (refreshed.renewed, refreshed.state) == (True, "active")
    assert len(renewals.token_calls("c")) == 1


async def test_who_waits_hears_of_a_refusal(renewals: Renewals) -> None:
    """Who waits for a renewal that is refused is told so, and does not ask the provider again."""
    worker, user = await one(renewals)
    bulk = await renewals.worker()
    renewals.tenant.revoke(user, "c")
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(bulk.engine.renew_due(bulk.tenants))
    await renewals.called("c")
    waiting = asyncio.create_task(refresh(worker, user))
    await renewals.waited_for()
    renewals.tenant.release()
    refreshed = await waiting
    assert (await running) == {Outcome.DEAD: 1}
    assert (refreshed.state, refreshed.reason) == ("reauthorization_required", "invalid_grant")
    assert not refreshed.renewed
    assert len(renewals.token_calls("c")) == 1


async def test_who_waits_hears_of_a_login(renewals: Renewals) -> None:
    """A login that is taken in while somebody waits ends the wait with the login's token."""
    worker, user = await one(renewals)
    bulk = await renewals.worker()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(bulk.engine.renew_due(bulk.tenants))
    await renewals.called("c")
    waiting = asyncio.create_task(refresh(worker, user))
    await renewals.waited_for()
    login = renewals.tenant.login(user)
    await renewals.sync(bulk)
    refreshed = await waiting
    assert refreshed.renewed
    assert opened(worker.vault, renewals.row(user)).refresh == login["refresh_token"]
    renewals.tenant.release()
    assert await running == {Outcome.SUPERSEDED: 1}
    assert opened(worker.vault, renewals.row(user)).refresh == login["refresh_token"]


async def test_a_wait_has_an_end(renewals: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited longer than any call takes is told that the grant is still being renewed."""
    monkeypatch.setattr(on_demand, "MAX_WAIT_SECONDS", 0.3)
    worker, user = await one(renewals)
    bulk = await renewals.worker()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(bulk.engine.renew_due(bulk.tenants))
    await renewals.called("c")
    refreshed = await refresh(worker, user)
    assert (refreshed.outcome, refreshed.renewed) == (Outcome.BUSY, False)
    assert refreshed.retry_after is not None
    renewals.tenant.release()
    assert await running == {Outcome.RENEWED: 1}


async def test_whoever_reads_is_told(renewals: Renewals, database_url: Secret) -> None:
    """However a refresh ends, readers who wait for the grant are told: of a token, or that none comes."""
    worker, user = await one(renewals)
    async with await psycopg.AsyncConnection.connect(database_url.reveal(), autocommit=True) as listener:
        await listener.execute(f"LISTEN {CHANNEL}")
        for fault in (None, "429"):
            if fault:
                renewals.tenant.fail_next("/idp/c", 1, fault)
            await refresh(worker, user, force=True)
            told = [note.payload async for note in listener.notifies(timeout=WAIT_SECONDS, stop_after=1)]
            assert told[0] == str(renewals.row(user)["id"])


# No call


async def test_a_fresh_token_is_left_alone(renewals: Renewals) -> None:
    """A token with life enough costs no call."""
    worker, user = await one(renewals, left=1800)
    for min_ttl in (None, 0, 60, 1700):
        refreshed = await refresh(worker, user, min_ttl=min_ttl)
        assert (refreshed.outcome, refreshed.renewed, refreshed.retry_after) == (Outcome.FRESH, False, None)
    row = renewals.row(user)
    older = await worker.on_demand.refresh_grant(
        row["id"], min_ttl=None, rejected_version=row["access_version"] - 1
    )
    assert (older.outcome, older.renewed) == (Outcome.FRESH, False)  # an API refused the one before this
    assert renewals.token_calls("c") == []


async def test_less_life_than_wanted_is_renewed(renewals: Renewals) -> None:
    """A token with less life left than wanted is renewed before its time."""
    worker, user = await one(renewals, left=1800)
    refreshed = await refresh(worker, user, min_ttl=1900)
    assert (refreshed.outcome, refreshed.renewed, refreshed.state) == (Outcome.RENEWED, True, "active")
    row = renewals.row(user)
    assert refreshed.expires_at == row["expires_at"] > row["now"] + timedelta(seconds=1900)


async def test_more_life_than_tokens_have_costs_no_call_each_time(renewals: Renewals) -> None:
    """Who always asks for more life than the provider's tokens have does not make it renew each time."""
    worker, user = await one(renewals, left=1800)
    assert (await refresh(worker, user, min_ttl=100_000)).renewed
    for _ in range(3):
        refreshed = await refresh(worker, user, min_ttl=100_000)
        assert (refreshed.outcome, refreshed.renewed) == (Outcome.FRESH, False)
    assert len(renewals.token_calls("c")) == 1


async def test_a_token_of_unknown_age_is_renewed_first(renewals: Renewals) -> None:
    """A token that Auth0 showed without an end is renewed before it is served; the provider's own is believed."""
    worker, user = await one(renewals, "google", "google-oauth2")
    renewals.sql("UPDATE grants SET expires_at = NULL")
    assert (await refresh(worker, user, min_ttl=None)).renewed
    renewals.sql("UPDATE grants SET expires_at = NULL")
    assert (await refresh(worker, user, min_ttl=None)).outcome is Outcome.FRESH


async def test_a_dead_grant_is_not_asked_about(renewals: Renewals) -> None:
    """A dead grant costs no call, and says why and since when it is dead."""
    worker, user = await one(renewals)
    renewals.tenant.revoke(user, "c")
    await refresh(worker, user)
    refreshed = await refresh(worker, user)
    assert (refreshed.outcome, refreshed.state) == (Outcome.DEAD, "reauthorization_required")
    assert (refreshed.reason, refreshed.since) == ("invalid_grant", renewals.row(user)["reason_since"])
    assert refreshed.retry_after is None
    assert len(renewals.token_calls("c")) == 1


async def test_backoff_is_not_cut_short(renewals: Renewals) -> None:
    """While a grant waits after a failure, nobody's hurry makes another call; it says how long."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "429", retry_after=120)
    assert (await refresh(worker, user)).outcome is Outcome.RETRY
    for _ in range(3):
        refreshed = await refresh(worker, user)
        assert refreshed.outcome is Outcome.RETRY
        assert refreshed.retry_after is not None
        assert 110 < refreshed.retry_after <= 120
    assert len(renewals.token_calls("c")) == 1


async def test_an_open_circuit_blocks(renewals: Renewals) -> None:
    """Behind an open circuit no call is made; it says that the connection is blocked, why, and how long."""
    users = renewals.connect("c", users=3, expires_in=1800)
    worker = await renewals.synced()
    renewals.tenant.set_client_secret("c", "c", "another")
    assert (await refresh(worker, users[0])).outcome is Outcome.RETRY
    assert (await refresh(worker, users[1])).outcome is Outcome.RETRY
    assert (await refresh(worker, users[2])).outcome is Outcome.BLOCKED
    refreshed = await refresh(worker, users[1])
    assert (refreshed.outcome, refreshed.state) == (Outcome.BLOCKED, "blocked")
    assert refreshed.reason == "invalid_client"
    assert refreshed.retry_after is not None
    assert 0 < refreshed.retry_after <= 15
    assert len(renewals.token_calls("c")) == 3


async def test_a_fresh_token_behind_an_open_circuit_is_fresh(renewals: Renewals) -> None:
    """A connection's trouble does not touch a token that has life enough, nor spend the probe on it."""
    worker, user = await one(renewals)
    renewals.tenant.set_client_secret("c", "c", "another")
    await refresh(worker, user)
    renewals.end_pause("c")
    assert (await refresh(worker, user, min_ttl=60)).outcome is Outcome.FRESH
    assert renewals.circuit("c")["pause"] <= 0


async def test_a_doubtful_refresh_token_is_held_back(renewals: Renewals) -> None:
    """A refresh token in doubt is kept until the served token's last moment, whoever asks."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "reset_before")
    assert (await refresh(worker, user)).outcome is Outcome.IN_DOUBT
    row = renewals.row(user)
    assert row["due_at"] == row["expires_at"] - IN_DOUBT_RETRY_MARGIN
    refreshed = await refresh(worker, user)
    assert (refreshed.outcome, refreshed.state) == (Outcome.IN_DOUBT, "in_doubt")
    assert refreshed.retry_after is not None
    assert len(renewals.token_calls("c")) == 1
    renewals.sql("UPDATE grants SET due_at = now()")
    assert (await refresh(worker, user)).outcome is Outcome.RENEWED


@pytest.mark.parametrize(
    ("provider", "strategy", "outcome"),
    [("custom", "oauth2", Outcome.IN_DOUBT), ("google", "google-oauth2", Outcome.RENEWED)],
)
async def test_a_dead_workers_grant_is_taken_over(
    renewals: Renewals, provider: str, strategy: str, outcome: Outcome
) -> None:
    """A grant whose worker died is renewed where that is safe, and held back where it is not."""
    worker, user = await one(renewals, provider, strategy)
    renewals.make_due()
    await renewals.die_during_calls(worker, carried_out=True)
    assert (await refresh(worker, user)).outcome is outcome


# Force


async def test_force_renews_a_fresh_token(renewals: Renewals) -> None:
    """Forced, even a fresh token is renewed."""
    worker, user = await one(renewals)
    refreshed = await refresh(worker, user, min_ttl=0, force=True)
    assert (refreshed.outcome, refreshed.renewed) == (Outcome.RENEWED, True)


async def test_a_flood_of_forced_refreshes_makes_one_call(renewals: Renewals) -> None:
    """However often apps force a token or ask for nearly all of its life, it is renewed once a minute; the operator is obeyed."""
    worker, user = await one(renewals)
    other = await renewals.worker()
    assert (await refresh(worker, user, force=True, by_operator=False)).outcome is Outcome.RENEWED
    renewals.sql(
        "UPDATE grants SET obtained_at = obtained_at - interval '5 s', expires_at = expires_at - interval '5 s'"
    )
    for each in (worker, other):
        assert (await refresh(each, user, force=True, by_operator=False)).outcome is Outcome.FRESH
        refreshed = await refresh(each, user, min_ttl=3598, by_operator=False)
        assert (refreshed.outcome, refreshed.state) == (Outcome.RETRY, "active")
    assert len(renewals.token_calls("c")) == 1
    assert refreshed.retry_after is not None
    assert 30 < refreshed.retry_after <= 60
    assert (await refresh(worker, user, force=True)).outcome is Outcome.RENEWED
    renewals.sql("UPDATE grants SET obtained_at = now() - interval '1 min'")
    assert (await refresh(worker, user, force=True, by_operator=False)).outcome is Outcome.RENEWED


async def test_a_flood_of_forced_refreshes_does_not_cut_backoff_short(renewals: Renewals) -> None:
    """While a provider fails, forced refreshes wait as all others do."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 10, "503")
    for _ in range(5):
        refreshed = await refresh(worker, user, force=True, by_operator=False)
    assert refreshed.retry_after is not None
    assert len(renewals.token_calls("c")) == 1


async def test_a_short_life_is_renewed_at_its_half(renewals: Renewals) -> None:
    """A token that lives for seconds may be renewed when half of them are over."""
    worker, user = await one(renewals)
    renewals.tenant.configure_provider("c", access_life=4)
    first = await refresh(worker, user, force=True, by_operator=False)
    assert first.outcome is Outcome.RENEWED
    assert (await refresh(worker, user, min_ttl=1, force=True, by_operator=False)).outcome is Outcome.FRESH
    renewals.sql(
        "UPDATE grants SET obtained_at = obtained_at - interval '2 s', expires_at = expires_at - interval '2 s'"
    )
    assert (await refresh(worker, user, force=True, by_operator=False)).outcome is Outcome.RENEWED


async def test_force_ends_a_backoff_and_an_open_circuit(renewals: Renewals) -> None:
    """Forced, a call is made in spite of a backoff and of an open circuit; its success closes the circuit."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "error:invalid_client", retry_after=600)
    await refresh(worker, user)
    assert renewals.circuit("c")["circuit_opened_at"] is not None
    assert (await refresh(worker, user, force=True)).outcome is Outcome.RENEWED
    assert renewals.circuit("c")["circuit_opened_at"] is None


async def test_force_uses_a_doubtful_refresh_token(renewals: Renewals) -> None:
    """If forced, a refresh token in doubt is presented again at once."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "reset_before")
    await refresh(worker, user)
    assert (await refresh(worker, user, force=True)).outcome is Outcome.RENEWED
    assert renewals.row(user)["in_doubt_since"] is None


@pytest.mark.parametrize("fault", [None, "503", "hang", "error:computer_says_no"])
async def test_force_in_vain_leaves_a_dead_grant_as_dead_as_it_was(
    renewals: Renewals, fault: str | None
) -> None:
    """A dead grant that is forced and refused again keeps its first reason and time, whatever the refusal."""
    worker, user = await one(renewals, answer_seconds=2 if fault == "hang" else 20)
    renewals.tenant.fail_next("/idp/c", 1, "reset_after")
    await refresh(worker, user)
    assert (await refresh(worker, user, force=True)).outcome is Outcome.LOST
    before = renewals.row(user)
    if fault:
        renewals.tenant.fail_next("/idp/c", 1, fault)
    refreshed = await refresh(worker, user, force=True)
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("reauthorization_required", "lost_in_rotation")
    assert row["reason_since"] == before["reason_since"] == refreshed.since
    assert row["claim_owner"] is None
    # The provider's verdict stands for good; of anything else it is not sure, and looks again in a day.
    assert (row["due_at"] is None) == (fault in (None, "error:invalid_grant"))


async def test_force_heals_a_dead_grant_that_lives_again(renewals: Renewals) -> None:
    """A dead grant that the provider takes again, when forced, is alive and is renewed in time from then on."""
    worker, user = await one(renewals)
    renewals.tenant.fail_next("/idp/c", 1, "error:invalid_grant")
    assert (await refresh(worker, user)).state == "reauthorization_required"
    refreshed = await refresh(worker, user, force=True)
    assert (refreshed.outcome, refreshed.state, refreshed.reason) == (Outcome.RENEWED, "active", None)
    assert renewals.row(user)["due_at"] is not None


# Providers of their own kind


async def test_a_facebook_token_is_exchanged_while_it_lives(renewals: Renewals) -> None:
    """Where there is no refresh token, the live access token is exchanged for a newer one."""
    worker, user = await one(renewals, "facebook", "facebook", left=86_400)
    before = opened(worker.vault, renewals.row(user))
    refreshed = await refresh(worker, user, min_ttl=100_000)
    assert (refreshed.outcome, refreshed.state) == (Outcome.RENEWED, "active")
    row = renewals.row(user)
    assert row["expires_at"] - row["now"] > timedelta(days=59)
    assert opened(worker.vault, row) != before
    assert opened(worker.vault, row).access == renewals.tenant.live(user, "c")["access_token"]
    assert renewals.token_calls("c")[0]["method"] == "GET"


async def test_a_facebook_token_that_ended_needs_the_user(renewals: Renewals) -> None:
    """A token that ended cannot be exchanged: only a new login helps, and it does."""
    worker, user = await one(renewals, "facebook", "facebook", left=86_400)
    renewals.tenant.revoke(user, "c")
    refreshed = await refresh(worker, user, force=True)
    assert (refreshed.state, refreshed.reason) == ("reauthorization_required", "facebook_190")
    renewals.tenant.login(user)
    await renewals.sync(worker)
    assert (await refresh(worker, user, force=True)).outcome is Outcome.RENEWED


async def test_a_facebook_login_during_an_exchange_stays(renewals: Renewals) -> None:
    """The old token's refusal, coming in after a new login, does not touch the new token."""
    worker, user = await one(renewals, "facebook", "facebook", left=86_400)
    renewals.tenant.revoke(user, "c")
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(refresh(worker, user, force=True))
    await renewals.called("c")
    login = renewals.tenant.login(user)
    await renewals.sync(await renewals.worker())
    renewals.tenant.release()
    assert (await running).state == "active"
    assert opened(worker.vault, renewals.row(user)).access == login["access_token"]


async def test_a_classic_github_token_cannot_be_renewed(renewals: Renewals) -> None:
    """A token without end and without a refresh token is served as it is; not even force makes a call."""
    [user] = renewals.connect("c", "github-classic", "github", expires_in=None)
    worker = await renewals.synced()
    for force in (False, True):
        refreshed = await refresh(worker, user, force=force)
        assert refreshed.state == "unrenewable"
        assert not refreshed.renewed
    assert renewals.token_calls("c") == []


async def test_without_a_client_nothing_is_renewed(renewals: Renewals) -> None:
    """On Auth0's development keys only Auth0 can renew; it says so."""
    renewals.tenant.add_connection("c", "google-oauth2", "google", client_id="")
    [user] = renewals.tenant.add_users("c", 1, expires_in=600)
    worker = await renewals.synced()
    refreshed = await refresh(worker, user)
    assert (refreshed.outcome, refreshed.state) == (Outcome.UNRENEWABLE, "unrenewable")
    assert refreshed.reason == "development_keys"


async def test_an_admin_grant_is_renewed_like_any_other(renewals: Renewals) -> None:
    """The admin tokens of an enterprise connection are refreshed by the connection's name alone."""
    renewals.tenant.add_connection("corp", "google-apps", "google", admin=True)
    worker = await renewals.synced()
    refreshed = await refresh(worker, "", "corp", force=True)
    assert (refreshed.outcome, refreshed.user_id) == (Outcome.RENEWED, "")
    live = renewals.tenant.admin_live("corp")
    assert opened(worker.vault, renewals.row("", "corp")) == (live["access_token"], live["refresh_token"])


# Nothing there


async def test_what_the_vault_does_not_have_is_not_found(renewals: Renewals) -> None:
    """An unknown user, another connection, another tenant or an erased grant: there is no such token."""
    worker, user = await one(renewals)
    for wanted, connection in ((user, "another"), ("custom|nobody", "c")):
        with pytest.raises(TokenNotFound):
            await refresh(worker, wanted, connection)
    with pytest.raises(TokenNotFound):
        await worker.on_demand.refresh(tenants=["another"], user_id=user, connection="c")
    renewals.sql(
        "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL"
    )
    with pytest.raises(TokenNotFound):
        await refresh(worker, user, force=True)
    assert renewals.token_calls("c") == []
