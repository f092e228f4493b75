"""One attempt under one claim: whether it is sent, what is measured, and what its run learns from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tests.integration.vault.test_spool import updates_refused
from tests.support.renewals import Renewals
from token_vault.secret import Secret
from token_vault.token_target import TokenTarget
from worker import instruments
from worker.renewal import commit
from worker.renewal.commit import AnswerCommitter
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.http import CALL_SECONDS
from worker.renewal.outcome import Outcome
from worker.runtime import Runtime
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.schedule import RenewalPolicy

CALL = timedelta(seconds=CALL_SECONDS)
PLAUSIBLE_SECONDS = 60  # for a call; a time of day in seconds is far beyond


class Attempt:
    """The claim on the one grant of a connection, at a time that stands still."""

    def __init__(self, renewals: Renewals, worker: Runtime, limiter: ConnectionLimiter, claim: Claim) -> None:
        self._renewals = renewals
        self._worker = worker
        self.limiter = limiter
        self.claim = claim

    async def send(self, fault: str | None = None) -> Outcome:
        """Make the attempt; its call goes wrong in this way."""
        if fault is not None:
            self._renewals.tenant.fail_next("/idp/c", 1, fault)
        return await self._worker.engine._renewer.attempt(
            self.limiter, self.claim, lambda: self.claim.claimed_at
        )

    @property
    def committer(self) -> AnswerCommitter:
        """The worker's."""
        return self._worker.engine._committer

    @property
    def calls(self) -> int:
        """How many the provider has had."""
        return len(self._renewals.token_calls("c"))

    @property
    def now(self) -> datetime:
        """The time."""
        return self.claim.claimed_at


async def claimed(
    renewals: Renewals,
    *,
    provider: tuple[str, str] = ("custom", "oauth2"),
    time_left: timedelta = 2 * CALL,
    policy: RenewalPolicy | None = None,
    **limits: Any,
) -> Attempt:
    """Claim the one due grant of a provider, by default a strict one."""
    renewals.connect("c", *provider)
    worker = await renewals.synced(answer_seconds=2)
    worker.engine._committer.check()  # makes the spool's folder
    renewals.make_due()
    now = await worker.vault.now()
    connection = (await worker.connections.load(["default"]))["default", "c"]
    connection = replace(connection, policy=policy or connection.policy)
    [claim] = await claims.claim_due(
        worker.vault, {("default", "c"): 1}, owner=uuid4(), now=now, until=now + time_left, limit=1
    )
    return Attempt(renewals, worker, ConnectionLimiter(connection, **limits), claim)


# Whether it is sent


async def test_without_time_for_a_whole_call_nothing_is_sent(renewals: Renewals) -> None:
    """Whose claim ends as a call may end gives the grant back, due at once."""
    attempt = await claimed(renewals, time_left=CALL)
    assert await attempt.send() is Outcome.UNSENT
    [row] = renewals.rows()
    assert (row["claim_owner"], row["due_at"]) == (None, attempt.now)
    assert attempt.calls == 0


async def test_nothing_is_sent_before_its_turn(renewals: Renewals) -> None:
    """An attempt waits for those before it, whose answers might have to be committed first."""
    attempt = await claimed(renewals)
    async with attempt.committer._capacity_check:
        sending = asyncio.create_task(attempt.send())
        await asyncio.sleep(0.05)  # more than a call takes here
        assert not sending.done()
        assert attempt.calls == 0
    assert await sending is Outcome.RENEWED


async def test_a_token_whose_earlier_answer_has_come_is_not_sent(renewals: Renewals) -> None:
    """Who took over from an attempt without outcome looks first whether its answer has been stored since."""
    attempt = await claimed(renewals, wait_in_doubt=False)
    attempt.claim = replace(attempt.claim, in_doubt_since=attempt.now)
    renewals.sql("UPDATE grants SET refresh_version = refresh_version + 1")
    assert await attempt.send() is Outcome.SUPERSEDED
    assert attempt.calls == 0


@pytest.mark.parametrize("why", ["requested", "suspected", None])
async def test_a_grant_that_nobody_reads_is_sent_where_it_is_wanted(
    renewals: Renewals, why: str | None
) -> None:
    """It sleeps, unless somebody asks for it, or a connection under suspicion needs a witness."""
    asleep = RenewalPolicy(read_window=timedelta(0), idle_life=timedelta(days=90))
    attempt = await claimed(renewals, policy=asleep, requested=why == "requested")
    connection = attempt.limiter.connection
    stored = replace(connection.stored, is_suspected=why == "suspected")
    attempt.limiter.connection = replace(connection, stored=stored)
    attempt.claim = replace(attempt.claim, last_read_at=None)
    assert await attempt.send() is (Outcome.RENEWED if why else Outcome.UNSENT)
    assert attempt.calls == bool(why)


@pytest.mark.parametrize(
    ("provider", "missing", "outcome"),
    [
        (("custom", "oauth2"), {"refresh_ciphertext": None}, Outcome.UNRENEWABLE),
        (("facebook", "facebook"), {"refresh_ciphertext": None}, Outcome.RENEWED),
        (("facebook", "facebook"), {"access_ciphertext": None}, Outcome.UNRENEWABLE),
    ],
)
async def test_without_the_token_that_the_provider_takes_nothing_is_sent(
    renewals: Renewals, provider: tuple[str, str], missing: dict[str, Any], outcome: Outcome
) -> None:
    """Most take a refresh token, and some exchange the access token itself."""
    attempt = await claimed(renewals, provider=provider)
    attempt.claim = replace(attempt.claim, **missing)
    assert await attempt.send() is outcome
    assert attempt.calls == (outcome is Outcome.RENEWED)


async def test_a_probe_that_is_not_sent_is_made_by_the_next_one(renewals: Renewals) -> None:
    """An open circuit whose one probe could not be decrypted does not wait for another pause."""
    attempt = await claimed(renewals)
    renewals.sql(
        "UPDATE connections SET circuit_opened_at = now(), circuit_until = now() + interval '1 hour',"
        " circuit_code = 'invalid_client', circuit_blame = 'operator'"
    )
    circuit = replace(attempt.limiter.connection.circuit, opened_at=attempt.now)
    attempt.limiter.connection = replace(attempt.limiter.connection, circuit=circuit)
    attempt.claim = replace(attempt.claim, refresh_ciphertext=b"of another key")
    assert await attempt.send() is Outcome.UNREADABLE
    assert renewals.sql("SELECT circuit_until FROM connections") == [{"circuit_until": attempt.now}]


# What it shows


@pytest.mark.parametrize("requested", [True, False])
@pytest.mark.parametrize(
    ("fault", "answer", "capacity"),
    [
        (None, "pair", 8),
        ("error:invalid_grant", "refusal", 8),
        ("503", "refusal", 2),
        ("reset_before", "none", 2),
    ],
)
async def test_a_call_is_measured_and_moves_the_capacity(
    renewals: Renewals, fault: str | None, answer: str, capacity: int, requested: bool
) -> None:
    """An answer of the provider's own doubles the calls of the run, a failure halves them; one asked for is told."""
    attempt = await claimed(renewals, capacity=4, requested=requested)
    assert attempt.limiter.connection.provider
    measured = instruments.provider_calls.labels(attempt.limiter.connection.provider.name, answer)
    before = sum(bucket.get() for bucket in measured._buckets)
    seconds = measured._sum.get()
    with capture_logs() as logs:
        await attempt.send(fault)
    assert sum(bucket.get() for bucket in measured._buckets) == before + 1
    assert 0 < measured._sum.get() - seconds < PLAUSIBLE_SECONDS
    told = [entry["answer"] for entry in logs if entry["event"] == "provider.answered"]
    assert told == ([answer] if requested else [])
    assert attempt.limiter.capacity == capacity


@pytest.mark.parametrize("resource", ["", "https://mail.example"])
async def test_the_life_of_another_resources_token_is_no_life_of_the_grants_own(
    renewals: Renewals, resource: str
) -> None:
    """Only from the grant's own token is learned how long the connection's tokens live."""
    attempt = await claimed(renewals)
    attempt.claim = replace(attempt.claim, target=TokenTarget(resource))
    assert await attempt.send() is Outcome.RENEWED
    [learned] = renewals.sql("SELECT observed_life FROM connections")
    assert (learned["observed_life"] is None) is bool(resource)


async def test_a_target_that_is_refused_is_asked_for_again(renewals: Renewals) -> None:
    """The refusal of a resource ends its attempt, and not the grant."""
    attempt = await claimed(renewals)
    attempt.claim = replace(attempt.claim, target=TokenTarget("https://mail.example"))
    assert await attempt.send("error:invalid_target") is Outcome.RETRY
    assert renewals.states() == {"active"}


async def test_a_run_claims_no_more_while_answers_wait_on_disk(
    renewals: Renewals, database_url: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Postgres does not take says nothing of the provider, and ends the connection's run."""
    monkeypatch.setattr(commit, "COMMIT_RETRY_SECONDS", 0)
    attempt = await claimed(renewals, capacity=4)
    with updates_refused(database_url, "53100"):
        assert await attempt.send() is Outcome.SPOOLED
    assert (attempt.limiter.exhausted, attempt.limiter.capacity) == (True, 4)
