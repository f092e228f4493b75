"""Mistakes that renewal engines make, each attacked by name.

``docs/promises.md`` says which test attacks what.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_scenarios import due, override, under_way
from tests.integration.renewal.test_circuit_breaker import configured
from tests.integration.renewal.test_storms import Weather
from tests.support.readers import Rows, opening
from tests.support.renewals import Renewals, opened
from token_vault.errors import TemporarilyUnavailable
from token_vault.secret import Secret
from worker.renewal import on_demand
from worker.renewal.engine import CLAIM_TIME
from worker.renewal.http import CALL_SECONDS, CONNECT_SECONDS, DRAIN_SECONDS
from worker.renewal.outcome import Outcome
from worker.settings import load
from worker.vault.vault import Vault

FIVE_MINUTES = timedelta(minutes=5)


# Two calls in a row


@pytest.mark.parametrize("provider", ["entra", "custom"])
@pytest.mark.parametrize("fault", ["503", "html200", "reset_before", "reset_after", "error:invalid_grant"])
async def test_a_second_refresh_that_fails_costs_nothing_of_the_first(
    renewals: Renewals, provider: str, fault: str
) -> None:
    """Of two refreshes in a row the first one's pair is committed before the second begins, however that ends."""
    renewals.connect("c", provider, "waad" if provider == "entra" else "oauth2")
    worker, user = await due(renewals)
    before = opened(worker.vault, renewals.row(user))
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    first = renewals.tenant.live(user, "c")
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, fault)
    assert (await worker.engine.renew_due(worker.tenants))[Outcome.RENEWED] == 0
    held = opened(worker.vault, renewals.row(user))
    assert held == (first["access_token"], first["refresh_token"])
    assert held.refresh != before.refresh


# One grant per user


@pytest.mark.parametrize("when", ["before the call", "during the call"])
async def test_a_login_that_ends_the_older_grant(renewals: Renewals, when: str) -> None:
    """Where a user has one grant at a time, a new login kills what is held: the login's pair takes its place."""
    renewals.connect("c")
    worker, user = await due(renewals)
    answered = await under_way(renewals, worker) if when == "during the call" else None
    renewals.tenant.revoke(user, "c")
    login = renewals.tenant.login(user)
    if answered is None:
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.DEAD: 1}
        assert renewals.row(user)["state"] == "reauthorization_required"
    await renewals.sync(await renewals.worker())
    if answered is not None:
        assert await answered() == {Outcome.SUPERSEDED: 1}
    row = renewals.row(user)
    assert (row["state"], row["reason"], row["claim_owner"]) == ("active", None, None)
    assert opened(worker.vault, row) == (login["access_token"], login["refresh_token"])
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.holds_what_lives(worker.vault, user, "c")


# Rows that nobody reads


async def test_what_nobody_reads_is_renewed_and_seen(renewals: Renewals) -> None:
    """A day without one reader: each grant is renewed before each end, and one that died is shown and told."""
    users = renewals.connect("c", users=5)
    here = Weather(renewals)
    worker = await renewals.synced(now=lambda: here.now)
    renewals.make_due()
    renewals.tenant.revoke(users[0], "c")
    for _ in range(24 * 6):
        await worker.engine.renew_due(worker.tenants)
        living = [row for row in renewals.rows("c") if row["user_id"] != users[0]]
        assert all(row["expires_at"] > here.now and row["last_read_at"] is None for row in living)
        here.move(600)
    assert len(renewals.token_calls("c")) >= 4 * 24 + 1
    shown = {row["user_id"]: row["state"] for row in renewals.sql("SELECT user_id, state FROM token_status")}
    assert shown == dict.fromkeys(users, "active") | {users[0]: "reauthorization_required"}
    told = renewals.sql("SELECT kind, user_id FROM outbox")
    assert told == [{"kind": "grant.reauthorization_required", "user_id": users[0]}]


# Another secret, another way


@pytest.mark.parametrize("fault", ["hang", "reset_after", "cut", "empty200", "502"])
async def test_after_no_answer_nothing_else_is_tried(
    renewals: Renewals, environment: Path, fault: str
) -> None:
    """A refresh token whose call got no answer does not go out with another secret or in another way at once."""
    renewals.connect("c", client_auth=["post", "basic"])
    worker = await renewals.synced(answer_seconds=0.5)
    [row] = renewals.rows("c")
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, fault, carried_out=True)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.IN_DOUBT: 1}
    renewals.tenant.set_client_secret("c", "c", "the-new-secret")
    setting = 'client_secret = "the-new-secret"\nclient_auth = "basic"'
    async with configured(environment, worker, setting) as engine:
        assert await engine.renew_due(["default"]) == {}
    [call] = renewals.token_calls("c")
    assert call["auth"] == "post"
    assert renewals.row(row["user_id"])["state"] == "in_doubt"
    assert renewals.tenant.double_spends() == 0


# What an answer says beside its tokens


@pytest.mark.parametrize(
    "scope", ["mail.send", "profile email mail.send", "", None, ["mail.read"], 7, {"mail": True}]
)
async def test_a_changed_scope_costs_no_token(renewals: Renewals, scope: Any) -> None:
    """Whatever an answer says of scopes, other ones, more or nonsense, its rotated pair is kept and goes on renewing."""
    renewals.connect("c")
    worker, user = await due(renewals)
    override(renewals, "c", {"scope": scope})
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.holds_what_lives(worker.vault, user, "c")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}


@pytest.mark.parametrize("life", ["soon", -1, 10**30, {}, None, "", float("inf")])
async def test_a_bad_expiry_costs_no_refresh_token(renewals: Renewals, life: Any) -> None:
    """A rotated refresh token beside a life that does not read is the one that is used next."""
    renewals.connect("c")
    worker, user = await due(renewals)
    before = opened(worker.vault, renewals.row(user)).refresh
    for name in ("expires_in", "refresh_token_expires_in"):
        override(renewals, "c", {name: life})
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
        assert renewals.holds_what_lives(worker.vault, user, "c")
    assert opened(worker.vault, renewals.row(user)).refresh != before
    assert renewals.tenant.double_spends() == 0


@pytest.mark.parametrize("id_token", ["not.a.token", "", None, 7, "eyJhbGciOiJub25lIn0.e30."])
async def test_an_id_token_that_does_not_verify_costs_no_token(renewals: Renewals, id_token: Any) -> None:
    """At an OpenID provider that rotates, the pair beside any id_token is kept, and the next renewal uses it."""
    renewals.connect("c", "oidc", "oidc", reuse_revokes_family=True)
    worker, user = await due(renewals)
    for _ in range(2):
        override(renewals, "c", {"id_token": id_token})
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.holds_what_lives(worker.vault, user, "c")


# Words with status 200


@pytest.mark.parametrize(
    ("provider", "strategy", "code"),
    [("github", "github", "bad_refresh_token"), ("slack", "oauth2", "invalid_refresh_token")],
)
async def test_a_dead_grant_in_a_200_is_dead_and_asked_about_once(
    renewals: Renewals, provider: str, strategy: str, code: str
) -> None:
    """A refusal with status 200 is a verdict and no passing failure: it is told, and no tick asks again."""
    renewals.connect("c", provider, strategy)
    worker, user = await due(renewals)
    renewals.tenant.fail_next("/idp/c", 1, f"error:{code}")
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.DEAD: 1}
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("reauthorization_required", code)
    for _ in range(3):
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {}
    assert len(renewals.token_calls("c")) == 1


# Claims


def test_a_claim_outlives_the_longest_call() -> None:
    """No call, connecting and its late answer included, can outlast the claim it is made under."""
    assert 3 * timedelta(seconds=CONNECT_SECONDS + CALL_SECONDS + DRAIN_SECONDS) < CLAIM_TIME


async def test_a_claim_that_is_anothers_is_no_verdict(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot get hold of a grant learns nothing about its token: state, attempts and pair are as they were."""
    monkeypatch.setattr(on_demand, "MAX_WAIT_SECONDS", 0.1)
    renewals.connect("c")
    worker, user = await due(renewals)
    answered = await under_way(renewals, worker)
    before = renewals.row(user)
    another = await renewals.worker()
    refreshed = await another.on_demand.refresh(
        tenants=another.tenants, user_id=user, connection="c", min_ttl=7200, force=True
    )
    assert (refreshed.outcome, refreshed.state) == (Outcome.BUSY, "active")
    after = renewals.row(user)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"now", "awaited"}
    assert await answered() == {Outcome.RENEWED: 1}


# Clocks of hosts, which date what goes through Redis


async def test_a_refresh_request_is_dated_by_postgres(
    vault: Vault, sql: Callable[..., Any], database_url: Secret
) -> None:
    """No host's clock decides how long a request lasts: it is dated, claimed and dropped by the database's."""
    rows = Rows(vault, sql)
    await rows.add(expires_in=-1)
    async with opening("asyncio", database_url) as make:
        with pytest.raises(TemporarilyUnavailable):
            await make().user_token("oauth2|u1", "custom")
    [request] = sql("SELECT *, clock_timestamp() AS now FROM refresh_requests")
    assert request["requested_at"] <= request["now"] < request["wanted_until"]
    assert (request["wanted_until"] - request["requested_at"]).total_seconds() == 30


def test_ticks_reach_a_worker_whose_clock_is_fast(environment: Path) -> None:
    """A tick is not dropped as too old by a host that is five minutes ahead of beat's, even if it waited a little."""
    from worker.app import make_app

    for tick in make_app(load()).conf.beat_schedule.values():
        assert tick["options"]["expires"] > tick["schedule"] + FIVE_MINUTES.total_seconds()
