"""What every renewal engine should survive, by name.

Those that need Celery's processes (Redis flushed, two beats, a message delivered twice) are in
``tests/integration/test_end_to_end.py``; ``docs/promises.md`` names them all.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from structlog.testing import capture_logs

from tests.integration.vault.test_spool import postgres_away
from tests.support.renewals import Renewals, opened
from tests.support.wait import until_async
from token_vault.secret import Secret
from worker.providers import Client, Provider, TokenRequest, registry
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime

HOUR = timedelta(hours=1)
OVERLOADED = "AADSTS50196: The server terminated an operation because it encountered a client request loop."


async def due(renewals: Renewals, connection: str = "c") -> tuple[Runtime, str]:
    """A worker, and a connection's only user, due."""
    worker = await renewals.synced()
    renewals.make_due()
    [row] = renewals.rows(connection)
    return worker, row["user_id"]


async def under_way(
    renewals: Renewals, worker: Runtime, fault: str = "hang"
) -> Callable[[], Awaitable[Counter[Outcome]]]:
    """Start a run whose call was carried out; return its end."""
    renewals.tenant.fail_next("/idp/c", 1, fault)
    running = asyncio.create_task(worker.engine.renew_due(worker.tenants))
    await renewals.called("c")

    async def end() -> Counter[Outcome]:
        renewals.tenant.release()
        return await running

    return end


def override(renewals: Renewals, connection: str, fields: dict[str, Any]) -> None:
    """Let the next answer say this instead."""
    renewals.tenant.fail_next(f"/idp/{connection}", 1, f"override:{json.dumps(fields)}")


# Workers


async def test_many_workers_make_one_call(renewals: Renewals) -> None:
    """N workers, one HTTP call: a due grant that all of them find is renewed once."""
    renewals.connect("c")
    worker, user = await due(renewals)
    workers = [worker, *[await renewals.worker() for _ in range(4)]]
    done = await asyncio.gather(*(each.engine.renew_due(each.tenants) for each in workers))
    assert sum(done, Counter()) == {Outcome.RENEWED: 1}
    assert len(renewals.token_calls("c")) == 1
    assert renewals.holds_what_lives(worker.vault, user, "c")


@pytest.mark.parametrize("provider", ["custom", "google"])
async def test_the_lease_runs_out_during_the_call(renewals: Renewals, provider: str) -> None:
    """A call that outlasts its claim: whoever takes over spends no rotating token, and the late answer is kept."""
    renewals.connect("c", provider, "oauth2")
    first, user = await due(renewals)
    answered = await under_way(renewals, first)
    renewals.sql("UPDATE grants SET claim_until = now(), due_at = now()")
    second = await renewals.worker()
    await second.engine.renew_due(second.tenants)
    await answered()
    # Nobody knows that the one who took over did not present it: what came is tried at once.
    await second.engine.renew_due(second.tenants)
    assert renewals.tenant.double_spends() == 0
    row = renewals.row(user)
    assert (row["state"], row["in_doubt_since"], row["claim_owner"]) == ("active", None, None)
    live = renewals.tenant.live(user, "c")
    assert opened(first.vault, row).refresh == live["refresh_token"]
    held = renewals.tenant.holder(opened(first.vault, row).access or "")
    assert held is not None
    assert held["live"]


@pytest.mark.parametrize(
    ("provider", "strategy", "outcomes"),
    [
        ("google", "google-oauth2", [Outcome.RENEWED]),
        ("entra", "waad", [Outcome.RENEWED]),
        ("okta", "okta", [Outcome.RENEWED]),
        ("bitbucket", "bitbucket", [Outcome.IN_DOUBT, Outcome.LOST]),
    ],
)
async def test_a_crash_between_answer_and_commit(
    renewals: Renewals, provider: str, strategy: str, outcomes: list[Outcome]
) -> None:
    """A worker that dies with the answer in hand: where the provider forgives, nothing is lost; else it is said."""
    renewals.connect("c", provider, strategy)
    worker, user = await due(renewals)
    began = await renewals.die_during_calls(worker, carried_out=True)
    for outcome in outcomes:
        assert await worker.engine.renew_due(worker.tenants) == {outcome: 1}
        renewals.make_due()
    row = renewals.row(user)
    if outcomes[-1] is Outcome.LOST:
        assert (row["reason"], row["reason_since"]) == ("lost_in_rotation", began)
    else:
        assert renewals.holds_what_lives(worker.vault, user, "c")


# Answers


async def test_the_refresh_token_is_absent_null_empty_or_unchanged(renewals: Renewals) -> None:
    """An answer without a new refresh token leaves the old one in place, and it goes on renewing."""
    for name in ("absent", "null", "empty", "blank"):
        renewals.connect(name, "google", "google-oauth2")
    renewals.connect("unchanged", "google", "google-oauth2", refresh_in_answer=True)
    worker = await renewals.synced()
    before = {row["connection"]: opened(worker.vault, row) for row in renewals.rows()}
    for _ in range(2):
        for name, value in (("null", None), ("empty", ""), ("blank", " ")):
            override(renewals, name, {"refresh_token": value})
        renewals.make_due()
        assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 5}
    for row in renewals.rows():
        pair = opened(worker.vault, row)
        assert pair.refresh == before[row["connection"]].refresh
        assert pair.access != before[row["connection"]].access


async def test_200_with_an_error(renewals: Renewals) -> None:
    """Providers that refuse with status 200 are understood: the word counts, not the number."""
    renewals.connect("github", "github", "github")
    renewals.connect("slack", "slack", "oauth2")
    worker = await renewals.synced()
    before = {row["connection"]: opened(worker.vault, row) for row in renewals.rows()}
    renewals.tenant.revoke(renewals.rows("github")[0]["user_id"], "github")
    renewals.tenant.fail_next("/idp/slack", 1, "error:invalid_refresh_token")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.DEAD: 2}
    assert {call["status"] for call in renewals.tenant.call_log("/idp/")} == {200}
    for row in renewals.rows():
        assert row["state"] == "reauthorization_required"
        assert opened(worker.vault, row) == before[row["connection"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class AsksForAnything(Provider):
    """Does not ask for JSON, so that a form comes."""

    def request(
        self, client: Client, *, access: Secret | None, refresh: Secret | None, now: datetime | None = None
    ) -> TokenRequest:
        request = super().request(client, access=access, refresh=refresh, now=now)
        return replace(request, headers={**request.headers, "Accept": "*/*"})


async def test_a_form_encoded_answer(renewals: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer as a form instead of JSON is read all the same."""
    others = tuple(provider for provider in registry.PROVIDERS if provider.name != "oauth2")
    monkeypatch.setattr(
        registry, "PROVIDERS", (AsksForAnything(name="oauth2", strategies=("oauth2",)), *others)
    )
    renewals.connect("c", form_encoded=True)
    worker, user = await due(renewals)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert renewals.holds_what_lives(worker.vault, user, "c")
    assert HOUR - timedelta(seconds=30) < row["expires_at"] - row["now"] <= HOUR


LIVES: dict[str, Any] = {
    "string": "1800", "zero": 0, "negative": -1, "huge": 10**12, "null": None, "word": "soon", "object": {},
    "true": True, "fraction": 1800.5,
}  # fmt: skip


async def test_expires_in_is_missing_a_string_zero_negative_or_huge(renewals: Renewals) -> None:
    """Whatever stands for a token's life, the pair is kept, no life is believed that cannot be, and it is renewed."""
    for name in LIVES:
        renewals.connect(name)
    renewals.connect("missing")
    renewals.tenant.configure_provider("missing", access_life=None)
    worker = await renewals.synced()
    for name, life in LIVES.items():
        override(renewals, name, {"expires_in": life})
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: len(LIVES) + 1}
    for row in renewals.rows():
        assert renewals.holds_what_lives(worker.vault, row["user_id"], row["connection"])
        if row["connection"] in ("string", "fraction"):
            assert timedelta(minutes=29) < row["expires_at"] - row["now"] <= timedelta(seconds=1800.5)
        assert row["expires_at"] is None or row["now"] < row["expires_at"] <= row["now"] + HOUR
        assert row["now"] < row["due_at"] < row["now"] + HOUR


async def test_expires_in_milliseconds(renewals: Renewals, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is declared to count in milliseconds is believed in milliseconds."""
    counted = [
        replace(each, expires_unit=timedelta(milliseconds=1)) if each.name == "oauth2" else each
        for each in registry.PROVIDERS
    ]
    monkeypatch.setattr(registry, "PROVIDERS", tuple(counted))
    renewals.connect("c")
    worker, user = await due(renewals)
    override(renewals, "c", {"expires_in": 1_800_000})
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert timedelta(minutes=29) < row["expires_at"] - row["now"] <= timedelta(minutes=30)


async def test_the_scope_shrinks(renewals: Renewals) -> None:
    """A renewal that grants less than before loses no pair: what is granted now is what is told."""
    renewals.connect("c", scope="mail.read mail.send")
    worker, user = await due(renewals)
    override(renewals, "c", {"scope": "mail.read"})
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.row(user)["scopes"] == ["mail.read"]
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_an_id_token_that_does_not_verify(renewals: Renewals) -> None:
    """What else an answer carries is not looked at before its pair is committed: no rotated token is lost to it."""
    renewals.connect("c", id_token=True)
    worker, user = await due(renewals)
    override(renewals, "c", {"id_token": "not.a.token"})
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_the_way_of_authentication_is_wrong(renewals: Renewals) -> None:
    """A client that is refused is not tried in another way: the refresh token goes out once."""
    renewals.connect("c", client_auth=["basic"])
    worker, _ = await due(renewals)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.BLOCKED: 1}
    assert len(renewals.token_calls("c")) == 1
    assert renewals.states() == {"active"}


async def test_the_loser_of_a_race_clears_nothing(renewals: Renewals) -> None:
    """Two workers with the same token: the refusal of the slower one leaves the winner's pair as it is."""
    renewals.connect("c", reuse_revokes_family=False)
    first, user = await due(renewals)
    answered = await under_way(renewals, first)
    renewals.sql("UPDATE grants SET claim_until = now(), due_at = now(), expires_at = now() WHERE true")
    second = await renewals.worker()
    assert await second.engine.renew_due(second.tenants) == {Outcome.LOST: 1}
    assert await answered() == {Outcome.RENEWED: 1}
    renewals.make_due()
    assert await second.engine.renew_due(second.tenants) == {Outcome.RENEWED: 1}
    assert renewals.row(user)["state"] == "active"
    assert renewals.holds_what_lives(second.vault, user, "c")


async def test_html_with_status_200(renewals: Renewals) -> None:
    """A sign-in page in place of an answer is no answer: the outcome is in doubt, the pair stays."""
    renewals.connect("c")
    worker, user = await due(renewals)
    before = opened(worker.vault, renewals.row(user))
    renewals.tenant.fail_next("/idp/c", 1, "html200")
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.IN_DOUBT: 1}
    assert opened(worker.vault, renewals.row(user)) == before
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}


# Failures


async def test_502(renewals: Renewals) -> None:
    """A gateway's failure is waited for; where refresh tokens rotate it may have come after the rotation."""
    renewals.connect("keeps", "google", "google-oauth2")
    renewals.connect("rotates")
    worker = await renewals.synced()
    for name in ("keeps", "rotates"):
        renewals.tenant.fail_next(f"/idp/{name}", 1, "502", carried_out=name == "rotates")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RETRY: 1, Outcome.IN_DOUBT: 1}
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1, Outcome.LOST: 1}
    assert renewals.rows("rotates")[0]["reason"] == "lost_in_rotation"


async def test_429_with_and_without_retry_after(renewals: Renewals) -> None:
    """A provider that is asked too often is left alone for as long as it says, or for a growing while."""
    renewals.connect("says")
    renewals.connect("silent")
    worker = await renewals.synced()
    renewals.tenant.fail_next("/idp/says", 1, "429", retry_after=900)
    renewals.tenant.fail_next("/idp/silent", 1, "429")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RETRY: 2}
    waits = {row["connection"]: (row["due_at"] - row["now"]).total_seconds() for row in renewals.rows()}
    assert 890 < waits["says"] <= 900
    assert 3 < waits["silent"] <= 11
    assert renewals.states() == {"active"}


async def test_aadsts50196_inside_invalid_grant(renewals: Renewals) -> None:
    """Throttling in the words of a dead grant kills nothing."""
    renewals.connect("c", "entra", "waad")
    worker, user = await due(renewals)
    renewals.tenant.fail_next("/idp/c", 1, f"error:invalid_grant:{OVERLOADED}")
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RETRY: 1}
    assert renewals.row(user)["state"] == "active"
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}


async def test_a_wrong_client_secret_across_1000_rows(renewals: Renewals) -> None:
    """A wrong client secret costs three calls, not a thousand, and no grant; put right, all are renewed."""
    renewals.connect("c", users=1000)
    worker = await renewals.synced()
    renewals.tenant.set_client_secret("c", "c", "the-new-secret")
    renewals.make_due()
    assert (await worker.engine.renew_due(worker.tenants))[Outcome.BLOCKED] == 1
    assert len(renewals.token_calls("c")) == 3
    assert renewals.states() == {"active"}
    renewals.tenant.set_connection_options("c", client_secret="the-new-secret")
    await renewals.sync(worker)
    renewals.sql("UPDATE grants SET due_at = NULL WHERE id > 20")
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 20}


# What changes underneath


async def test_invalid_grant_while_the_stored_refresh_token_changed(renewals: Renewals) -> None:
    """A refusal of a refresh token that is not the stored one any more is not believed."""
    renewals.connect("c")
    worker, user = await due(renewals)
    renewals.tenant.revoke(user, "c")
    answered = await under_way(renewals, worker)
    renewals.tenant.login(user)
    await renewals.sync(await renewals.worker())
    assert await answered() == {Outcome.SUPERSEDED: 1}
    row = renewals.row(user)
    assert (row["state"], row["reason"]) == ("active", None)
    assert renewals.holds_what_lives(worker.vault, user, "c")


async def test_the_user_logs_in_again_during_the_call(renewals: Renewals) -> None:
    """A login during the call is newer than the answer: the login's pair stays, and is renewed next."""
    renewals.connect("c")
    worker, user = await due(renewals)
    answered = await under_way(renewals, worker)
    login = renewals.tenant.login(user)
    await renewals.sync(await renewals.worker())
    assert await answered() == {Outcome.SUPERSEDED: 1}
    assert opened(worker.vault, renewals.row(user)) == (login["access_token"], login["refresh_token"])
    renewals.make_due()
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}


@pytest.mark.parametrize("how", ["deleted", "erased"])
async def test_the_row_is_deleted_during_the_call(renewals: Renewals, how: str) -> None:
    """Tokens of a user who was forgotten during the call do not come back."""
    renewals.connect("c")
    worker, _ = await due(renewals)
    answered = await under_way(renewals, worker)
    if how == "deleted":
        renewals.sql("DELETE FROM grants")
    else:
        renewals.sql(
            "UPDATE grants SET state = 'erased', access_ciphertext = NULL, refresh_ciphertext = NULL, due_at = NULL,"
            " claim_owner = NULL, claimed_at = NULL, claim_until = NULL"
        )
    assert await answered() == {Outcome.SUPERSEDED: 1}
    assert all(row["access_ciphertext"] is row["refresh_ciphertext"] is None for row in renewals.rows())
    assert await worker.engine.renew_due(worker.tenants) == {}


async def test_postgres_is_restarted(renewals: Renewals, database_url: Secret) -> None:
    """A rotated pair whose answer finds Postgres gone is committed when it is back."""
    renewals.connect("c")
    worker, user = await due(renewals)
    answered = await under_way(renewals, worker)
    with postgres_away(database_url):
        running = asyncio.ensure_future(answered())
        await until_async(lambda: len(list(worker.settings.spool.glob("[!.]*"))) == 1)
    assert await running == {Outcome.RENEWED: 1}
    with psycopg.connect(database_url.reveal(), row_factory=dict_row) as connection:
        [row] = connection.execute("SELECT * FROM grants").fetchall()
    assert (row["state"], row["claim_owner"]) == ("active", None)
    live = renewals.tenant.live(user, "c")
    assert opened(worker.vault, row) == (live["access_token"], live["refresh_token"])


async def interrupted(running: Awaitable[Counter[Outcome]], database_url: Secret) -> None:
    """Take Postgres away until an attempt's outcome cannot be stored; see the run to its end."""
    with capture_logs() as logs:
        with postgres_away(database_url):
            ended = asyncio.ensure_future(running)
            await until_async(lambda: any(line["event"] == "renewal.interrupted" for line in logs))
        assert await ended == {Outcome.IN_DOUBT: 1}
    assert [line["event"] for line in logs if line["event"].startswith("renewal.")] == ["renewal.interrupted"]


async def test_postgres_is_away_when_a_refusal_comes(renewals: Renewals, database_url: Secret) -> None:
    """A refusal that cannot be stored is no bug: the claim ends once Postgres is back, and the token is sent again."""
    renewals.connect("c", "google", "google-oauth2")
    worker, user = await due(renewals)
    renewals.tenant.revoke(user, "c")
    answered = await under_way(renewals, worker)
    await interrupted(answered(), database_url)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.LOST: 1}


async def test_postgres_is_away_when_an_answer_is_lost(renewals: Renewals, database_url: Secret) -> None:
    """Where both lines break, the token is sent again within the provider's grace, and nothing is lost."""
    renewals.connect("c", "okta", "okta")
    worker, user = await due(renewals)
    answered = await under_way(renewals, worker, "hang:reset")
    await interrupted(answered(), database_url)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    with psycopg.connect(database_url.reveal(), row_factory=dict_row) as connection:
        [row] = connection.execute("SELECT * FROM grants").fetchall()
    live = renewals.tenant.live(user, "c")
    assert opened(worker.vault, row) == (live["access_token"], live["refresh_token"])


# Clocks


@pytest.mark.parametrize("skew", [-300, 300])
async def test_the_providers_clock_is_5_minutes_off(renewals: Renewals, skew: int) -> None:
    """A provider whose clock is off gives lives, not times: they are counted by the vault's own clock."""
    renewals.connect("c", numbers_as_strings=True)
    worker, user = await due(renewals)
    renewals.tenant.advance(skew)
    assert await worker.engine.renew_due(worker.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert HOUR - timedelta(seconds=30) < row["expires_at"] - row["now"] <= HOUR


@pytest.mark.parametrize("skew", [-300, 300])
async def test_a_workers_clock_is_5_minutes_off(
    renewals: Renewals, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    """A worker whose host's clock is off neither claims early nor dates wrongly: Postgres' clock is the only one."""
    renewals.connect("c")
    worker, user = await due(renewals)
    another = await renewals.worker()
    answered = await under_way(renewals, worker)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    assert await another.engine.renew_due(another.tenants) == {}
    assert await answered() == {Outcome.RENEWED: 1}
    renewals.make_due()
    assert await another.engine.renew_due(another.tenants) == {Outcome.RENEWED: 1}
    row = renewals.row(user)
    assert HOUR - timedelta(seconds=30) < row["expires_at"] - row["now"] <= HOUR
    assert renewals.tenant.double_spends() == 0
