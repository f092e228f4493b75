"""Renewal against an emulated provider that fails in every way: each failure is blamed on whom it concerns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

import psycopg
import pytest

from tests.support.renewals import Renewals, Row, opened
from tests.support.wait import until_async
from token_vault.secret import Secret
from worker.renewal import commit
from worker.renewal.evidence import CLIENT_BLAMED_AT, TRIES_WITHOUT_WITNESS
from worker.renewal.outcome import IN_DOUBT_RETRY_MARGIN, Outcome
from worker.runtime import Runtime
from worker.token_pair import TokenPair
from worker.vault import claims
from worker.vault.claims import Claim

HOUR = timedelta(hours=1)

# Which provider, behind which Auth0 strategy, stands for which policy.
STRICT = ("custom", "oauth2")  # rotates, and nobody knows of a grace
NO_GRACE = ("bitbucket", "bitbucket")
KEEPS = ("google", "google-oauth2")
ENTRA = ("entra", "waad")
GITHUB = ("github", "github")
GRACE = ("okta", "okta")
SLACK = ("slack", "oauth2")

OVERLOADED = "AADSTS50196: The server terminated an operation because it encountered a client request loop."
EXPIRED = "AADSTS700082: The refresh token has expired due to inactivity."


class Case(NamedTuple):
    """A provider, and how its next answer goes wrong: as ``Emulation.fail_next`` takes it."""

    kind: tuple[str, str]
    fault: str
    told: str = ""
    """What the vault says of it."""


async def one_due(renewals: Renewals, kind: tuple[str, str]) -> tuple[Runtime, str]:
    """One synced grant of such a provider, due now."""
    provider, strategy = kind
    [user] = renewals.connect("c", provider, strategy)
    worker = await renewals.synced()
    renewals.make_due()
    return worker, user


async def renew(
    renewals: Renewals, worker: Runtime, fault: str | None = None, *, retry_after: int | None = None
) -> Outcome:
    """Let the one due grant be renewed, and go wrong in this way."""
    if fault is not None:
        renewals.tenant.fail_next("/idp/c", 1, fault, retry_after=retry_after)
    outcomes = await worker.engine.renew_due(worker.tenants)
    [outcome] = outcomes.elements()
    return outcome


async def all_due(
    renewals: Renewals, cases: Sequence[Case]
) -> tuple[Runtime, list[tuple[Case, str]], Counter[Outcome]]:
    """Let each case go wrong at a connection of its own, all in one run; gives the connections' names."""
    named = [(case, f"c{number}") for number, case in enumerate(cases)]
    for case, name in named:
        renewals.connect(name, *case.kind)
    worker = await renewals.synced(answer_seconds=2)
    renewals.make_due()
    for case, name in named:
        renewals.tenant.fail_next(f"/idp/{name}", 1, case.fault)
    return worker, named, await worker.engine.renew_due(worker.tenants)


def wait_of(row: Row) -> float:
    """Seconds until a grant is next due."""
    return float((row["due_at"] - row["now"]).total_seconds())


# Success


async def test_a_renewed_grant_holds_what_the_provider_takes(renewals: Renewals) -> None:
    """After a renewal the vault holds the newest pair, counted from when it was asked for, due before it ends."""
    kinds = {"custom": STRICT, "bitbucket": NO_GRACE, "google": KEEPS, "entra": ENTRA, "okta": GRACE}
    users = {name: renewals.connect(name, *kind)[0] for name, kind in kinds.items()}
    worker = await renewals.synced()
    before = {name: renewals.row(user, name) for name, user in users.items()}
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: len(kinds)}
    for name, user in users.items():
        old, row = before[name], renewals.row(user, name)
        assert renewals.holds_what_lives(worker.vault, user, name), name
        assert opened(worker.vault, row).access != opened(worker.vault, old).access
        assert (row["state"], row["attempts"], row["last_error"]) == ("active", 0, None)
        assert (row["in_doubt_since"], row["claim_owner"], row["obtained_from"]) == (None, None, "renewal")
        assert old["now"] <= row["obtained_at"] <= row["now"] < row["due_at"] < row["expires_at"]


async def test_a_run_ends_when_nothing_is_due(renewals: Renewals) -> None:
    """A run that finds nothing due makes no call and counts nothing."""
    renewals.connect("strict", users=3)
    worker = await renewals.synced()
    renewals.sql("UPDATE grants SET due_at = now() + interval '1 hour'")
    assert await worker.engine.renew_due(worker.tenants) == {}
    assert renewals.token_calls("strict") == []


async def test_more_than_a_window_of_grants_is_renewed_in_one_run(renewals: Renewals) -> None:
    """A run goes on claiming until nothing is due, and tells of each renewal."""
    renewals.connect("strict", users=150)
    worker = await renewals.synced()
    renewals.make_due()
    told: list[Outcome] = []
    assert await worker.engine.renew_due(worker.tenants, progress=told.append) == {Outcome.RENEWED: 150}
    assert told == [Outcome.RENEWED] * 150
    [counted] = renewals.sql("SELECT sum(count)::int AS n FROM renewal_counts WHERE outcome = 'renewed'")
    assert counted["n"] == 150


async def test_a_run_claims_nothing_after_its_time(renewals: Renewals) -> None:
    """A run whose time is up leaves the rest to the next one."""
    renewals.connect("strict", users=3)
    worker = await renewals.synced()
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants, budget=0) == {}
    assert renewals.token_calls("strict") == []


async def test_only_the_given_tenants_grants_are_renewed(renewals: Renewals) -> None:
    """A worker renews for the tenants it knows, and no others."""
    renewals.connect("strict")
    worker = await renewals.synced()
    renewals.make_due()
    assert await worker.engine.renew_due(["another"]) == {}
    assert renewals.token_calls("strict") == []


# The user


VERDICTS = [
    Case(STRICT, "error:invalid_grant", "invalid_grant"),
    Case(STRICT, "error:interaction_required", "interaction_required"),
    Case(STRICT, "error:consent_required", "consent_required"),
    Case(STRICT, "error:login_required", "login_required"),
    Case(GITHUB, "error:bad_refresh_token", "bad_refresh_token"),
    Case(SLACK, "error:invalid_refresh_token", "invalid_refresh_token"),
    Case(ENTRA, f"error:invalid_grant:{EXPIRED}", "invalid_grant"),
    Case(NO_GRACE, "error:invalid_request:Invalid refresh_token", "invalid_grant"),
]


async def test_the_providers_verdict_kills_the_grant(renewals: Renewals) -> None:
    """What only the user can fix is reported with its reason and time, and is not asked about again."""
    worker, named, outcomes = await all_due(renewals, VERDICTS)
    assert outcomes == {Outcome.DEAD: len(VERDICTS)}
    for case, name in named:
        [row] = renewals.rows(name)
        assert (row["state"], row["reason"], row["due_at"]) == ("reauthorization_required", case.told, None)
        assert row["reason_since"] <= row["now"]
        assert row["refresh_ciphertext"] is not None
        assert renewals.circuit(name)["circuit_opened_at"] is None
    assert await worker.engine.renew_due(worker.tenants) == {}


async def test_a_new_login_heals_a_dead_grant(renewals: Renewals) -> None:
    """A user who signs in again is served and renewed again."""
    worker, user = await one_due(renewals, STRICT)
    renewals.tenant.revoke(user, "c")
    assert await renew(renewals, worker) is Outcome.DEAD
    renewals.tenant.login(user)
    await renewals.sync(worker)
    assert (renewals.row(user)["state"], renewals.row(user)["reason"]) == ("active", None)
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.RENEWED


# The operator


MISTAKES = [
    Case(STRICT, "error:invalid_client", "invalid_client"),
    Case(GITHUB, "error:incorrect_client_credentials", "incorrect_client_credentials"),
    Case(GITHUB, "error:redirect_uri_mismatch", "redirect_uri_mismatch"),
    Case(SLACK, "error:bad_client_secret", "bad_client_secret"),
    Case(ENTRA, "error:invalid_client:AADSTS7000222: The client secret has expired.", "invalid_client"),
]


async def test_a_mistake_of_the_operator_breaks_the_connection(renewals: Renewals) -> None:
    """What the operator has to fix opens the connection's circuit; the grant is as good as before."""
    _, named, outcomes = await all_due(renewals, MISTAKES)
    assert outcomes == {Outcome.BLOCKED: len(MISTAKES)}
    for case, name in named:
        [row] = renewals.rows(name)
        assert (row["state"], row["reason"], row["in_doubt_since"]) == ("active", None, None)
        assert renewals.circuit(name)["circuit_code"] == case.told
        [status] = renewals.sql("SELECT state, reason FROM token_status WHERE connection = %s", name)
        assert status == {"state": "blocked", "reason": case.told}


AMBIGUOUS = ("unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_request")


@pytest.mark.parametrize("code", AMBIGUOUS)
async def test_a_word_that_may_mean_one_grant_stops_the_connection_only_with_several(
    renewals: Renewals, code: str
) -> None:
    """One grant refused so is its own trouble; five, with no renewal in between, are the connection's."""
    renewals.connect("c", users=8)
    worker = await renewals.synced()
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, f"error:{code}")
    outcomes = await worker.engine.renew_due(worker.tenants)
    assert outcomes == {Outcome.RETRY: 1, Outcome.RENEWED: 7}
    assert renewals.circuit("c")["circuit_opened_at"] is None
    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", CLIENT_BLAMED_AT, f"error:{code}")
    outcomes = await worker.engine.renew_due(worker.tenants)
    assert outcomes == {Outcome.RETRY: CLIENT_BLAMED_AT - 1, Outcome.BLOCKED: 1}
    assert renewals.circuit("c")["circuit_code"] == code


async def test_the_only_grant_of_a_connection_stops_it_after_a_few_refusals(renewals: Renewals) -> None:
    """With no other grant to tell by, the operator is called after a bounded number of tries."""
    worker, user = await one_due(renewals, STRICT)
    for _ in range(TRIES_WITHOUT_WITNESS - 1):
        assert await renew(renewals, worker, "error:invalid_scope") is Outcome.RETRY
        renewals.make_due()
    assert await renew(renewals, worker, "error:invalid_scope") is Outcome.BLOCKED
    assert renewals.row(user)["state"] == "active"


# Nobody


PASSING = [
    Case(STRICT, "429", "http_429"),
    Case(STRICT, "408", "http_408"),
    Case(STRICT, "error:temporarily_unavailable", "temporarily_unavailable"),
    Case(STRICT, "error:slow_down", "slow_down"),
    Case(KEEPS, "500", "http_500"),
    Case(KEEPS, "502", "http_502"),
    Case(KEEPS, "503", "http_503"),
    Case(ENTRA, "504", "http_504"),
    Case(ENTRA, f"error:invalid_grant:{OVERLOADED}", "aadsts50196"),
    Case(ENTRA, "error:invalid_grant:AADSTS90033: A transient error has occurred.", "aadsts90033"),
]


async def test_what_passes_is_waited_for(renewals: Renewals) -> None:
    """A failure that passes changes nothing but when the grant is tried next, and it succeeds then."""
    worker, named, outcomes = await all_due(renewals, PASSING)
    assert outcomes == {Outcome.RETRY: len(PASSING)}
    for case, name in named:
        [row] = renewals.rows(name)
        assert (row["state"], row["attempts"], row["in_doubt_since"]) == ("active", 1, None)
        assert row["last_error"] == case.told
        assert 3 < wait_of(row) <= 11
        assert renewals.circuit(name)["circuit_opened_at"] is None
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: len(PASSING)}
    assert {row["attempts"] for row in renewals.rows()} == {0}


@pytest.mark.parametrize(("kind", "fault"), [(STRICT, "429"), (KEEPS, "503"), (STRICT, "error:slow_down")])
async def test_retry_after_is_obeyed(renewals: Renewals, kind: tuple[str, str], fault: str) -> None:
    """A provider that says how long to wait is left alone for so long."""
    worker, user = await one_due(renewals, kind)
    await renew(renewals, worker, fault, retry_after=1800)
    assert 1790 < wait_of(renewals.row(user)) <= 1800


async def test_an_unreachable_provider_costs_nothing(renewals: Renewals) -> None:
    """A request that never left is tried again without any doubt, even where refresh tokens rotate."""
    [user] = renewals.connect("c")
    renewals.tenant.set_connection_options("c", tokenURL="http://127.0.0.1:9/token")
    worker = await renewals.synced()
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.RETRY
    row = renewals.row(user)
    assert (row["state"], row["in_doubt_since"], row["last_error"]) == ("active", None, "unreachable")
    assert 3 < wait_of(row) <= 11


# In doubt

LOST_ANSWERS = ["hang", "reset_after", "reset_before", "malformed_json", "empty200", "html200", "500", "502"]


async def test_an_unknown_outcome_is_put_off_while_the_user_is_served(renewals: Renewals) -> None:
    """Where a second use could end everything, a doubtful refresh token is kept until the served token ends."""
    cases = [Case(kind, fault) for kind in (STRICT, NO_GRACE, GITHUB) for fault in LOST_ANSWERS]
    worker, named, outcomes = await all_due(renewals, cases)
    assert outcomes == {Outcome.IN_DOUBT: len(cases)}
    for case, name in named:
        [row] = renewals.rows(name)
        assert row["state"] == "in_doubt", case
        assert row["obtained_from"] == "auth0"
        assert row["in_doubt_since"] == row["reason_since"] <= row["now"]
        assert row["due_at"] == row["expires_at"] - IN_DOUBT_RETRY_MARGIN
    assert await worker.engine.renew_due(worker.tenants) == {}
    assert len(renewals.tenant.call_log("/idp/")) == len(cases)


async def test_without_rotation_an_unknown_outcome_is_retried_at_once(renewals: Renewals) -> None:
    """Where a refresh token outlives its use, there is no doubt: the retry follows at once, and succeeds."""
    cases = [Case(kind, fault) for kind in (KEEPS, ENTRA) for fault in LOST_ANSWERS if not fault.isdecimal()]
    worker, named, outcomes = await all_due(renewals, cases)
    assert outcomes == {Outcome.RETRY: len(cases)}
    for case, name in named:
        [row] = renewals.rows(name)
        assert (row["state"], row["in_doubt_since"]) == ("active", None), case
        assert wait_of(row) <= 0
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: len(cases)}
    assert all(
        renewals.holds_what_lives(worker.vault, row["user_id"], row["connection"]) for row in renewals.rows()
    )


async def test_within_the_grace_an_unknown_outcome_is_retried_at_once(renewals: Renewals) -> None:
    """A provider that forgives a second use is asked again at once, and the doubt is gone."""
    # Half of this provider's answer has the whole pair, which is kept.
    cases = [Case(GRACE, fault) for fault in LOST_ANSWERS if fault != "malformed_json"]
    worker, _, outcomes = await all_due(renewals, cases)
    assert outcomes == {Outcome.IN_DOUBT: len(cases)}
    assert all(wait_of(row) <= 0 for row in renewals.rows())
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: len(cases)}
    for row in renewals.rows():
        assert (row["state"], row["in_doubt_since"], row["reason"]) == ("active", None, None)
        assert renewals.holds_what_lives(worker.vault, row["user_id"], row["connection"])


async def test_a_doubtful_refresh_token_that_was_not_spent_is_renewed_after_all(renewals: Renewals) -> None:
    """A request that never arrived left the refresh token good: at the served token's end it is used."""
    worker, user = await one_due(renewals, STRICT)
    assert await renew(renewals, worker, "reset_before") is Outcome.IN_DOUBT
    renewals.make_due()  # its time has come
    assert await renew(renewals, worker) is Outcome.RENEWED
    assert renewals.row(user)["in_doubt_since"] is None
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_a_doubtful_refresh_token_that_was_spent_is_lost_in_rotation(renewals: Renewals) -> None:
    """A refresh token that was spent without an answer is reported as lost, at the time of the attempt that lost it."""
    worker, user = await one_due(renewals, STRICT)
    assert await renew(renewals, worker, "reset_after") is Outcome.IN_DOUBT
    began = renewals.row(user)["in_doubt_since"]
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.LOST
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("reauthorization_required", "lost_in_rotation")
    assert row["reason_since"] == began
    assert row["due_at"] is None


async def test_a_dead_workers_call_is_in_doubt(renewals: Renewals) -> None:
    """A worker that died during a call leaves a doubt; the next one serves the user first."""
    worker, user = await one_due(renewals, STRICT)
    began = await renewals.die_during_calls(worker, carried_out=True)
    assert await renew(renewals, worker) is Outcome.IN_DOUBT
    row = renewals.row(user)
    assert (row["state"], row["in_doubt_since"], row["claim_owner"]) == ("in_doubt", began, None)
    assert row["due_at"] == row["expires_at"] - IN_DOUBT_RETRY_MARGIN
    assert len(renewals.token_calls("c")) == 1
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.LOST
    assert renewals.row(user)["reason_since"] == began


async def test_a_dead_workers_call_that_never_arrived_costs_nothing(renewals: Renewals) -> None:
    """A worker that died before its request arrived leaves a refresh token that works when its time comes."""
    worker, user = await one_due(renewals, STRICT)
    await renewals.die_during_calls(worker, carried_out=False)
    assert await renew(renewals, worker) is Outcome.IN_DOUBT
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.RENEWED
    assert renewals.row(user)["in_doubt_since"] is None


async def test_a_dead_workers_call_is_repeated_at_once_where_that_is_safe(renewals: Renewals) -> None:
    """Where refresh tokens do not rotate, a dead worker's grant is simply renewed."""
    worker, user = await one_due(renewals, KEEPS)
    await renewals.die_during_calls(worker, carried_out=True)
    assert await renew(renewals, worker) is Outcome.RENEWED
    assert renewals.row(user)["in_doubt_since"] is None


# Unknown


async def test_an_unknown_refusal_is_tried_a_few_times_and_then_the_operators(renewals: Renewals) -> None:
    """A refusal that no table names is retried a bounded number of times, then stops the connection."""
    worker, user = await one_due(renewals, STRICT)
    for _ in range(TRIES_WITHOUT_WITNESS - 1):
        assert await renew(renewals, worker, "error:computer_says_no") is Outcome.RETRY
        renewals.make_due()
    assert renewals.circuit("c")["circuit_opened_at"] is None
    assert await renew(renewals, worker, "error:computer_says_no") is Outcome.BLOCKED
    assert renewals.circuit("c")["circuit_code"] == "computer_says_no"
    assert renewals.row(user)["state"] == "active"


# Postgres


def break_connections(renewals: Renewals) -> None:
    """Break all of the workers' connections to Postgres, as its restart does."""
    [broken] = renewals.sql(
        "SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'token-vault'"
    )
    assert broken["n"] > 0


async def test_postgres_dies_while_an_answer_is_under_way(renewals: Renewals) -> None:
    """An answer that comes back to broken connections is committed over new ones."""
    worker, user = await one_due(renewals, STRICT)
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")
    break_connections(renewals)
    renewals.tenant.release()
    assert await running == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert (row["claim_owner"], row["attempts"]) == (None, 0)
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_postgres_dies_while_a_refusal_is_under_way(renewals: Renewals) -> None:
    """A refusal too finds its way past broken connections: no doubt comes of it."""
    worker, user = await one_due(renewals, STRICT)
    renewals.tenant.revoke(user, "c")
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")
    break_connections(renewals)
    renewals.tenant.release()
    assert await running == {Outcome.DEAD: 1}
    assert renewals.row(user)["reason"] == "invalid_grant"


# Time


async def test_the_workers_own_clock_may_be_wrong(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is five minutes off claims and dates by Postgres' clock."""
    worker, user = await one_due(renewals, STRICT)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    assert await renew(renewals, worker) is Outcome.RENEWED
    row = renewals.row(user)
    assert row["obtained_at"] <= row["now"]
    assert timedelta(minutes=59) < row["expires_at"] - row["now"] <= HOUR


async def test_a_day_passes_in_seconds(renewals: Renewals) -> None:
    """With a clock of its own a worker renews each token in time, a whole day long, and presents none twice."""
    now = datetime.now(UTC)
    users = renewals.connect("c", users=3)
    renewals.tenant.set_clock(now.timestamp())
    worker = await renewals.synced(now=lambda: now)
    end, renewed = now + timedelta(days=1), 0
    while now < end:
        assert all(row["expires_at"] > now for row in renewals.rows())
        renewed += (await worker.engine.renew_due(worker.tenants)).total()
        [first] = renewals.sql("SELECT min(due_at) AS due_at FROM grants")
        now = max(first["due_at"], now + timedelta(minutes=1))
        renewals.tenant.set_clock(now.timestamp())
    assert 24 <= renewed / len(users) <= 40
    assert renewals.tenant.double_spends() == 0


async def test_a_key_that_is_missing_costs_no_token(renewals: Renewals) -> None:
    """A refresh token that cannot be decrypted is not sent and not dead, and is renewed when its key is back."""
    worker, user = await one_due(renewals, STRICT)
    sealed = renewals.row(user)["refresh_ciphertext"]
    renewals.sql("UPDATE grants SET refresh_ciphertext = '\\x00'")
    assert await renew(renewals, worker) is Outcome.UNREADABLE
    row = renewals.row(user)
    assert (row["state"], row["claim_owner"], row["in_doubt_since"]) == ("active", None, None)
    assert wait_of(row) > 0
    assert renewals.token_calls("c") == []
    renewals.sql("UPDATE grants SET refresh_ciphertext = %s", sealed)
    renewals.make_due()
    assert await renew(renewals, worker) is Outcome.RENEWED


# The window


async def test_no_more_is_asked_for_while_answers_wait_for_their_commit(
    renewals: Renewals, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies loses what it has not committed: answers must not queue up behind a slow commit."""
    monkeypatch.setattr(commit, "MAX_PENDING_ANSWERS", 1)
    users = renewals.connect("c", users=6)
    worker = await renewals.synced(answer_seconds=60)
    loaded = await worker.connections.load(["default"])
    ids = {row["user_id"]: row["id"] for row in renewals.rows("c")}

    def renewing(user: str) -> asyncio.Task[Outcome]:
        return asyncio.create_task(worker.engine.renew_one(ids[user], connection=loaded["default", "c"]))

    renewals.make_due()
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    first = renewing(users[0])
    await renewals.called("c")
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as locking:
        await locking.execute("SELECT FROM grants WHERE id = %s FOR UPDATE", (ids[users[0]],))
        renewals.tenant.release()
        await until_async(lambda: worker.engine._committer._pending == 1)
        others = [renewing(user) for user in users[1:]]
        await until_async(
            lambda: (
                renewals.sql("SELECT count(*) AS n FROM grants WHERE claim_owner IS NOT NULL")[0]["n"] == 6
            )
        )
        assert not first.done()
        assert len(renewals.token_calls("c")) == 1
        await locking.rollback()
    assert set(await asyncio.gather(first, *others)) == {Outcome.RENEWED}
    assert len(renewals.token_calls("c")) == 6


async def test_a_refusal_that_a_late_answer_has_overtaken_puts_the_new_pair_in_doubt(
    renewals: Renewals,
) -> None:
    """Who took over and is refused after the first one's answer was stored may have had the new pair revoked."""
    [user] = renewals.connect("c", reuse_revokes_family=False)
    worker = await renewals.synced()
    renewals.make_due()
    began = await worker.vault.now()
    [late] = await claims.claim_due(
        worker.vault, {("default", "c"): 1}, owner=uuid4(), now=began, until=began + HOUR, limit=1
    )
    renewals.tenant.revoke(user, "c")
    renewals.sql("UPDATE grants SET claim_until = now(), due_at = now(), expires_at = now()")
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    taking_over = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")
    await _store(worker, late, "late")
    now = await worker.vault.now()
    [third] = await claims.claim_due(
        worker.vault, {("default", "c"): 1}, owner=uuid4(), now=now, until=now + HOUR, limit=1
    )
    await _store(worker, third, "third")
    assert renewals.row(user)["state"] == "active"
    renewals.tenant.release()
    assert await taking_over == {Outcome.SUPERSEDED: 1}
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("in_doubt", "reused")
    assert row["due_at"] <= row["now"]
    assert opened(worker.vault, row) == ("third", "rotated-third")


async def _store(worker: Runtime, claim: Claim, access: str) -> None:
    """Store a pair that came for a claim."""
    at = claim.claimed_at
    pair = TokenPair(Secret(access), Secret(f"rotated-{access}"), at + HOUR)
    assert await claims.store_pair(worker.vault, claim, pair, obtained_at=at, due_at=at + HOUR)


async def test_an_interrupted_run_sees_its_calls_to_their_end(renewals: Renewals) -> None:
    """A run that is cancelled ends only when the answers under way are stored: each may be the only copy."""
    worker, user = await one_due(renewals, STRICT)
    renewals.tenant.fail_next("/idp/c", 1, "hang")
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")
    running.cancel()
    await asyncio.sleep(0.05)  # all that a cancelled run needs to end
    assert not running.done()
    renewals.tenant.release()
    with pytest.raises(asyncio.CancelledError):
        await running
    row = renewals.row(user)
    assert (row["obtained_from"], row["claim_owner"]) == ("renewal", None)
    assert renewals.holds_what_lives(worker.vault, user, "c")
