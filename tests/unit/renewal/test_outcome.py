"""What a refused renewal turns a grant into: who is blamed, and when the refresh token is shown again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_vault.grant_key import GrantKey
from worker import providers
from worker.providers import Provider, RefusalBlame, Refused
from worker.renewal.evidence import (
    REFUSAL_PAUSES,
    Finding,
    Judgement,
    presumed_dead_pause,
    refusal_pause,
    suspicion_of,
)
from worker.renewal.http import CALL_SECONDS
from worker.renewal.outcome import (
    IN_DOUBT_RETRY_MARGIN,
    MAX_UNTOLD_FAILURE,
    MIN_FAILURE,
    NOTHING_TO_SPEND,
    PROXY_PAUSE,
    Decision,
    Outcome,
    decide,
    is_told_as_failing,
    stay_dormant,
    wait_for_key,
    wait_for_proxy,
    wait_in_doubt,
)
from worker.vault import schedule
from worker.vault.claims import Claim
from worker.vault.refusals.refusals import Suspicion

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
BEGAN = NOW - timedelta(seconds=20)
EARLIER = NOW - timedelta(minutes=7)

ROTATES = Provider(name="rotates", rotates=True)
FORGIVES = Provider(name="forgives", rotates=True, grace=30)
KEEPS = Provider(name="keeps", rotates=False)

CLAIM = Claim(
    id=1, key=GrantKey("default", "c", "oauth2|1", "1"), owner=uuid4(), claimed_at=BEGAN,
    until=BEGAN + timedelta(minutes=2), state="active", access_ciphertext=b"a", access_version=3, refresh_ciphertext=b"r",
    refresh_version=2, expires_at=NOW + timedelta(minutes=10), in_doubt_since=None, attempts=0,
)  # fmt: skip

codes = st.sampled_from(["invalid_grant", "invalid_client", "http_503", "timeout", "unrecognised_error"])
refusals = st.builds(
    Refused,
    st.sampled_from(RefusalBlame),
    codes,
    st.none() | st.floats(0, 3600),
    spent=st.booleans(),
)
kinds = st.sampled_from([ROTATES, FORGIVES, KEEPS, *(providers.get(name) for name in providers.names())])
moments = st.datetimes(
    NOW.replace(tzinfo=None) - timedelta(days=1), NOW.replace(tzinfo=None) + timedelta(days=60)
)
claimed = st.builds(
    lambda state, doubt, attempts, ends: replace(
        CLAIM,
        state=state,
        in_doubt_since=EARLIER if doubt or state == "in_doubt" else None,
        attempts=attempts,
        expires_at=ends and ends.replace(tzinfo=UTC),
    ),
    st.sampled_from(["active", "in_doubt", "reauthorization_required"]),
    st.booleans(),
    st.integers(0, 30),
    st.none() | moments,
)
chances = st.floats(0, 1)


CLIENT = b"the client that was refused"


def decided(
    refused: Refused,
    claim: Claim = CLAIM,
    provider: Provider = ROTATES,
    jitter: float = 0.5,
    *,
    judgement: Judgement | None = None,
) -> Any:
    judgement = judgement or Judgement(suspicion_of(refused, client_is_proven=True))
    return decide(refused, claim, provider, judgement=judgement, client=CLIENT, now=NOW, jitter=jitter)


# Whatever happens


@given(refusals, claimed, kinds, chances)
def test_only_the_providers_verdict_kills_a_grant(
    refused: Refused, claim: Claim, provider: Provider, jitter: float
) -> None:
    """No refusal but the provider's verdict on this very grant marks it dead."""
    decision = decided(refused, claim, provider, jitter)
    kills = decision.columns.get("state") == "reauthorization_required"
    assert not kills or refused.blame is RefusalBlame.USER
    assert kills == (refused.blame is RefusalBlame.USER and claim.state != "reauthorization_required")


@given(refusals, claimed, kinds, chances)
def test_a_living_grant_is_always_looked_at_again(
    refused: Refused, claim: Claim, provider: Provider, jitter: float
) -> None:
    """A grant that is not dead has a time for its next attempt, never in the past."""
    decision = decided(refused, claim, provider, jitter)
    dead = "reauthorization_required" in (decision.columns.get("state"), claim.state)
    assert dead or decision.columns["due_at"] >= NOW


@given(refusals, claimed, kinds, chances)
def test_retry_after_is_obeyed(refused: Refused, claim: Claim, provider: Provider, jitter: float) -> None:
    """What the provider asked to wait is waited, whatever else speaks for hurry."""
    decision = decided(refused, claim, provider, jitter)
    if refused.retry_after and decision.columns["due_at"] is not None:
        assert decision.columns["due_at"] >= NOW + timedelta(seconds=refused.retry_after)


@given(refusals, claimed, kinds, chances)
def test_failures_are_counted(refused: Refused, claim: Claim, provider: Provider, jitter: float) -> None:
    """Each failure counts as one more, and its code is kept."""
    columns = decided(refused, claim, provider, jitter).columns
    assert (columns["attempts"], columns["last_error"]) == (claim.attempts + 1, refused.code)


@given(refusals, claimed, kinds, chances)
def test_a_doubt_is_never_dropped_but_by_a_verdict(
    refused: Refused, claim: Claim, provider: Provider, jitter: float
) -> None:
    """What is in doubt stays so until the provider says something about the grant."""
    assert (
        not decided(refused, claim, provider, jitter).columns.get("doubt_resolved")
        or refused.blame is RefusalBlame.USER
    )


# The user


def test_a_verdict_kills_with_its_code_and_time() -> None:
    """A dead grant says why and since when, and is not looked at again."""
    decision = decided(Refused(RefusalBlame.USER, "bad_refresh_token"))
    assert decision.outcome is Outcome.DEAD
    assert decision.columns["state"] == "reauthorization_required"
    assert (decision.columns["reason"], decision.columns["reason_since"]) == ("bad_refresh_token", NOW)
    assert decision.columns["due_at"] is None


def test_a_refusal_after_a_doubt_is_a_loss_in_rotation() -> None:
    """A refresh token refused after an attempt of unknown outcome was lost, at the time of that attempt."""
    decision = decided(Refused(RefusalBlame.USER, "invalid_grant"), replace(CLAIM, in_doubt_since=EARLIER))
    assert decision.outcome is Outcome.LOST
    assert (decision.columns["reason"], decision.columns["reason_since"]) == ("lost_in_rotation", EARLIER)


@pytest.mark.parametrize("blame", list(RefusalBlame))
def test_a_dead_grant_that_was_forced_stays_as_it_was(blame: RefusalBlame) -> None:
    """A failed forced attempt changes neither the reason nor the time of a grant's death."""
    dead = replace(CLAIM, state="reauthorization_required")
    for claim in (dead, replace(dead, in_doubt_since=EARLIER)):
        columns = decided(
            Refused(blame, "invalid_grant", spent=blame is RefusalBlame.IN_DOUBT), claim
        ).columns
        assert columns.get("state") is None
        # A verdict stands for good; of anything else it is not sure, so it is looked at again.
        again = NOW + presumed_dead_pause(1, 0.5)
        assert columns["due_at"] == (None if blame is RefusalBlame.USER else again)


# Nobody


def test_a_passing_failure_is_retried_with_backoff() -> None:
    """What may pass is tried again, each time later, with jitter, up to half an hour."""
    waits = [
        decided(
            Refused(RefusalBlame.NOBODY, "http_503"), replace(CLAIM, attempts=attempts), jitter=1
        ).columns["due_at"] - NOW
        for attempts in range(30)
    ]  # fmt: skip
    assert waits == sorted(waits)
    assert waits[0] <= timedelta(seconds=10)
    assert waits[-1] == schedule.MAX_BACKOFF
    soon = decided(Refused(RefusalBlame.NOBODY, "http_503"), replace(CLAIM, attempts=9), jitter=0).columns[
        "due_at"
    ]
    assert soon - NOW == schedule.FIRST_BACKOFF


# In doubt


def test_an_unknown_outcome_is_remembered_since_its_attempt_began() -> None:
    """A grant in doubt knows when the attempt began whose outcome never came; later ones do not move that."""
    first = decided(Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True))
    assert first.outcome is Outcome.IN_DOUBT
    assert (first.columns["state"], first.columns["reason"]) == ("in_doubt", "timeout")
    assert (first.columns["in_doubt"], first.columns["reason_since"]) == (True, BEGAN)
    again = decided(
        Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True), replace(CLAIM, in_doubt_since=EARLIER)
    )
    assert again.columns["reason_since"] == EARLIER


def test_without_rotation_nothing_is_in_doubt() -> None:
    """Where the refresh token is not spent by using it, an unknown outcome is retried at once, then with backoff."""
    first = decided(Refused(RefusalBlame.IN_DOUBT, "timeout"), provider=KEEPS)
    assert (first.outcome, first.columns["due_at"]) == (Outcome.RETRY, NOW)
    assert "state" not in first.columns
    second = decided(Refused(RefusalBlame.IN_DOUBT, "timeout"), replace(CLAIM, attempts=1), KEEPS)
    assert second.columns["due_at"] > NOW


def test_within_a_grace_the_retry_is_made_at_once() -> None:
    """A provider that takes the spent refresh token for a while is asked again while that lasts."""
    spent = Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True)
    assert decided(spent, provider=FORGIVES).columns["due_at"] == NOW
    in_grace = replace(CLAIM, in_doubt_since=NOW - timedelta(seconds=29), attempts=1)
    assert decided(spent, in_grace, FORGIVES).columns["due_at"] < NOW + timedelta(seconds=30)


def test_a_grace_may_last_until_the_new_token_is_used() -> None:
    """Box takes the spent refresh token until the new one is used: there a retry is safe however late."""
    spent = Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True)
    assert decided(spent, provider=providers.get("box")).columns["due_at"] == NOW


@pytest.mark.parametrize(
    ("provider", "in_doubt_since"),
    [(ROTATES, None), (FORGIVES, EARLIER), (replace(ROTATES, grace=0), None)],
    ids=["no grace known", "grace over", "no grace"],
)
def test_without_grace_the_user_is_served_first(provider: Provider, in_doubt_since: datetime | None) -> None:
    """A retry that could end the token being served waits for that token's last moment."""
    spent = Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True)
    claim = replace(CLAIM, in_doubt_since=in_doubt_since)
    assert claim.expires_at is not None
    assert decided(spent, claim, provider).columns["due_at"] == claim.expires_at - IN_DOUBT_RETRY_MARGIN


@pytest.mark.parametrize("ending", ["told", "idle"])
def test_a_refresh_token_that_ends_first_is_tried_before_it_does(ending: str) -> None:
    """A doubt does not wait for the access token's last moment where the refresh token would be dead by then."""
    obtained_at, ends = NOW - timedelta(minutes=5), NOW + timedelta(minutes=25)
    claim = replace(CLAIM, obtained_at=obtained_at, expires_at=NOW + timedelta(minutes=55))
    provider = ROTATES
    if ending == "told":
        claim = replace(claim, refresh_expires_at=ends)
    else:
        provider = replace(ROTATES, idle_life=ends - obtained_at)
    decision = decided(Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True), claim, provider)
    assert decision.columns["due_at"] == ends - IN_DOUBT_RETRY_MARGIN
    waiting = wait_in_doubt(replace(claim, in_doubt_since=EARLIER), provider, now=NOW)
    assert waiting is not None
    assert waiting.columns["due_at"] == ends - IN_DOUBT_RETRY_MARGIN
    over = replace(claim, refresh_expires_at=NOW - timedelta(seconds=1), in_doubt_since=EARLIER)
    waiting = wait_in_doubt(over, ROTATES, now=NOW)
    assert waiting is not None
    assert waiting.columns["due_at"] == NOW + timedelta(minutes=55) - IN_DOUBT_RETRY_MARGIN


@pytest.mark.parametrize("ends", [None, NOW - timedelta(hours=1), NOW + timedelta(seconds=30)])
def test_without_a_token_to_serve_the_retry_is_soon(ends: datetime | None) -> None:
    """Where no token is being served any more, or nobody knows until when, waiting wins nothing."""
    spent = Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True)
    decision = decided(spent, replace(CLAIM, expires_at=ends), ROTATES)
    assert NOW < decision.columns["due_at"] <= NOW + timedelta(seconds=10)


def test_the_last_moment_leaves_time_for_a_call() -> None:
    """A retry at the last moment ends before the token does."""
    assert timedelta(seconds=CALL_SECONDS) < IN_DOUBT_RETRY_MARGIN


# A worker that died


@pytest.mark.parametrize(("provider", "waits"), [(KEEPS, False), (FORGIVES, True), (ROTATES, True)], ids=str)
def test_a_dead_workers_attempt_is_in_doubt_like_any_other(provider: Provider, waits: bool) -> None:
    """A claim taken over from a worker that died is not simply sent again where that could end the served token."""
    decision = wait_in_doubt(replace(CLAIM, in_doubt_since=EARLIER), provider, now=NOW)
    assert (decision is not None) == waits
    if decision is not None:
        assert CLAIM.expires_at is not None
        assert decision.outcome is Outcome.IN_DOUBT
        assert decision.columns["reason_since"] == EARLIER
        assert decision.columns["due_at"] == CLAIM.expires_at - IN_DOUBT_RETRY_MARGIN


@pytest.mark.parametrize(
    "claim",
    [
        CLAIM,
        replace(CLAIM, state="in_doubt", in_doubt_since=EARLIER),
        replace(CLAIM, in_doubt_since=EARLIER, expires_at=NOW + IN_DOUBT_RETRY_MARGIN),
        replace(CLAIM, in_doubt_since=EARLIER, expires_at=None),
    ],
    ids=["no doubt", "its time has come", "last moment", "unknown end"],
)
def test_what_has_waited_long_enough_is_sent(claim: Claim) -> None:
    """A doubt is waited for once, and only while there is a token to serve."""
    assert wait_in_doubt(claim, ROTATES, now=NOW) is None


def test_a_retry_that_comes_too_late_for_the_grace_serves_the_user_first() -> None:
    """A retry planned within the grace that a worker comes to only afterwards waits for the token's last moment."""
    claim = replace(CLAIM, state="in_doubt", in_doubt_since=NOW - timedelta(seconds=20), attempts=1)
    assert wait_in_doubt(claim, FORGIVES, now=NOW) is None
    late = wait_in_doubt(replace(claim, in_doubt_since=EARLIER), FORGIVES, now=NOW)
    assert late is not None
    assert claim.expires_at is not None
    assert late.columns == {"due_at": claim.expires_at - IN_DOUBT_RETRY_MARGIN}
    last = replace(claim, in_doubt_since=EARLIER, expires_at=NOW + IN_DOUBT_RETRY_MARGIN)
    assert wait_in_doubt(last, FORGIVES, now=NOW) is None


def test_a_pair_in_doubt_for_its_predecessor_is_tried_at_once() -> None:
    """A token that was never presented itself is no reuse: whether it still lives is found out at once."""
    claim = replace(CLAIM, state="in_doubt", in_doubt_since=EARLIER, attempts=0)
    assert wait_in_doubt(claim, FORGIVES, now=NOW) is None


# Unclear


def test_an_unclear_refusal_is_tried_again_in_growing_pauses() -> None:
    """A refusal in words that name nobody leaves the grant as it is, and is tried again ever later."""
    refused = Refused(RefusalBlame.UNKNOWN, "http_418")
    waits = []
    for tries in range(1, 8):
        decision = decided(refused, judgement=Judgement(Suspicion.UNCLEAR, tries=tries), jitter=0)
        assert (decision.outcome, decision.columns.get("state")) == (Outcome.RETRY, None)
        waits.append(decision.columns["due_at"] - NOW)
    assert tuple(waits[: len(REFUSAL_PAUSES)]) == REFUSAL_PAUSES
    assert waits == sorted(waits)


def test_a_blamed_client_leaves_its_grants_alone() -> None:
    """Where the client is blamed the grant is blocked, and as good as before."""
    judgement = Judgement(Suspicion.CLIENT, finding=Finding.CLIENT)
    decision = decided(Refused(RefusalBlame.OPERATOR, "invalid_client"), judgement=judgement)
    assert (decision.outcome, decision.columns.get("state")) == (Outcome.BLOCKED, None)


def test_a_presumed_death_is_looked_at_again_and_again() -> None:
    """A grant presumed dead keeps the provider's words and the client, and is tried soon, then ever later."""
    judgement = Judgement(Suspicion.UNCLEAR, is_own_trouble=True, tries=4)
    decision = decided(Refused(RefusalBlame.UNKNOWN, "invalid"), judgement=judgement)
    assert decision.outcome is Outcome.DEAD
    assert (decision.columns["state"], decision.columns["reason"]) == ("reauthorization_required", "invalid")
    assert decision.columns["due_at"] == NOW + presumed_dead_pause(0, 0.5)
    assert decision.columns["refused_client"] == CLIENT
    pauses = []
    for attempts in range(decision.columns["attempts"], 12):
        dead = replace(CLAIM, state="reauthorization_required", attempts=attempts)
        columns = decided(Refused(RefusalBlame.UNKNOWN, "invalid"), dead, jitter=0).columns
        assert columns["attempts"] == attempts + 1
        pauses.append(columns["due_at"] - NOW)
    assert pauses == sorted(pauses)
    assert pauses[0] <= timedelta(minutes=30)
    assert pauses[-1] == timedelta(days=1)


# Untold


@given(refusals, claimed, kinds, chances, st.sampled_from(Finding), st.floats(0, 40 * 3600))
def test_no_living_grant_fails_for_long_untold(
    refused: Refused, claim: Claim, provider: Provider, jitter: float, finding: Finding, seconds: float
) -> None:
    """Whoever is refused through the end of its token is told, unless its death or its connection's trouble is."""
    claim = replace(claim, attempts=claim.attempts + 1, failing_since=NOW - timedelta(seconds=seconds))
    suspicion = suspicion_of(refused, client_is_proven=True)
    columns = decided(refused, claim, provider, jitter, judgement=Judgement(suspicion, finding)).columns
    dead = "reauthorization_required" in (columns.get("state"), claim.state)
    assert not (columns.get("is_failing") and (dead or finding is not Finding.NOBODY))
    if dead or finding is not Finding.NOBODY:
        return
    ends = claim.expires_at or claim.failing_since
    unserved = ends is not None and columns["due_at"] >= ends
    if seconds >= 12 * 3600 or (unserved and seconds >= 45 * 60):
        assert columns["is_failing"]


def test_what_passes_soon_is_not_told() -> None:
    """A first failure is no news, though the token has ended: a grant that nobody read is renewed when it is read."""
    ended = replace(CLAIM, expires_at=EARLIER)
    refused = Refused(RefusalBlame.NOBODY, "http_503")
    assert not decided(refused, ended).columns["is_failing"]
    assert decided(replace(refused, retry_after=3600.0), ended).columns["is_failing"]
    # What is told of one trouble says nothing of the next.
    assert not decided(refused, replace(ended, failing_since=NOW - timedelta(days=9))).columns["is_failing"]


def test_a_held_verdict_kills_nobody() -> None:
    """A verdict under a client that has changed and renewed nothing yet is no verdict."""
    refused = Refused(RefusalBlame.USER, "invalid_grant")
    held = suspicion_of(refused, client_is_proven=False)
    assert held is Suspicion.HELD
    assert decided(refused, judgement=Judgement(held)).columns.get("state") is None
    assert decided(refused, judgement=Judgement(held)).outcome is Outcome.RETRY


# What the connection is told


@pytest.mark.parametrize(
    ("refused", "suspicion", "outage"),
    [
        (Refused(RefusalBlame.USER, "invalid_grant"), None, False),
        (Refused(RefusalBlame.USER, "invalid_grant"), Suspicion.HELD, False),
        (Refused(RefusalBlame.OPERATOR, "invalid_client"), Suspicion.CLIENT, False),
        (Refused(RefusalBlame.UNKNOWN, "http_418"), Suspicion.UNCLEAR, False),
        (Refused(RefusalBlame.NOBODY, "http_503"), Suspicion.OUTAGE, True),
        (Refused(RefusalBlame.NOBODY, "http_429"), Suspicion.THROTTLED, True),
        (Refused(RefusalBlame.IN_DOUBT, "timeout"), Suspicion.OUTAGE, True),
        (Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True), Suspicion.OUTAGE, True),
        (Refused(RefusalBlame.IN_DOUBT, "no_access_token", spent=True), Suspicion.UNCLEAR, False),
    ],
)
def test_only_a_missing_answer_is_an_outage(
    refused: Refused, suspicion: Suspicion | None, outage: bool
) -> None:
    """A provider that has answered for itself has no outage, whatever it has said of the grant."""
    assert decided(refused, judgement=Judgement(suspicion)).outage is outage


@pytest.mark.parametrize(
    ("blame", "outcome", "outage"),
    [
        (RefusalBlame.USER, Outcome.DEAD, False),
        (RefusalBlame.OPERATOR, Outcome.DEAD, False),
        (RefusalBlame.UNKNOWN, Outcome.DEAD, False),
        (RefusalBlame.NOBODY, Outcome.RETRY, True),
        (RefusalBlame.IN_DOUBT, Outcome.RETRY, True),
    ],
)
def test_a_dead_grants_try_tells_of_outages_too(blame: RefusalBlame, outcome: Outcome, outage: bool) -> None:
    """A dead grant that was tried again is still dead where the provider has said so, and unsettled elsewhere."""
    decision = decided(Refused(blame, "invalid_grant"), replace(CLAIM, state="reauthorization_required"))
    assert (decision.outcome, decision.outage) == (outcome, outage)
    settled = blame is RefusalBlame.USER
    assert decision.columns.get("doubt_resolved", False) is settled
    assert decision.columns.get("refused_client") == (CLIENT if settled else None)


def test_a_verdict_resolves_the_doubt_under_its_client() -> None:
    """A death ends every doubt, and names the client under which it was told."""
    columns = decided(Refused(RefusalBlame.USER, "invalid_grant")).columns
    assert (columns["doubt_resolved"], columns["refused_client"]) == (True, CLIENT)


@pytest.mark.parametrize("provider", [KEEPS, FORGIVES, ROTATES])
@pytest.mark.parametrize("spent", [True, False])
def test_a_retry_at_once_waits_for_as_long_as_was_asked(provider: Provider, spent: bool) -> None:
    """Where a try in doubt would be repeated at once, a pause that the provider asked for comes first."""
    refused = Refused(RefusalBlame.IN_DOUBT, "timeout", 3600.0, spent=spent)
    assert decided(refused, provider=provider).columns["due_at"] >= NOW + timedelta(hours=1)
    unclear = Judgement(Suspicion.UNCLEAR)
    assert decided(refused, judgement=unclear).columns["due_at"] == NOW + timedelta(hours=1)


def test_an_empty_answer_in_doubt_waits_as_an_unclear_refusal() -> None:
    """An answer without a token is tried again no sooner than other unclear ones, though its grace lasts."""
    refused = Refused(RefusalBlame.IN_DOUBT, "no_access_token", spent=True)
    judgement = Judgement(Suspicion.UNCLEAR, tries=2)
    doubted = replace(CLAIM, in_doubt_since=NOW - timedelta(seconds=10), state="in_doubt", attempts=1)
    due_at = decided(refused, doubted, FORGIVES, judgement=judgement).columns["due_at"]
    assert due_at == NOW + refusal_pause(2, 0.5)


@pytest.mark.parametrize(("seconds", "in_grace"), [(29.9, True), (30, False)])
def test_a_grace_ends_at_its_second(seconds: float, in_grace: bool) -> None:
    """Up to its end a grace makes the second try soon, but not at once; then the served token comes first."""
    doubted = replace(CLAIM, in_doubt_since=NOW - timedelta(seconds=seconds), state="in_doubt", attempts=1)
    due_at = decided(Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True), doubted, FORGIVES).columns[
        "due_at"
    ]
    if in_grace:
        assert NOW < due_at <= NOW + timedelta(seconds=10)
    else:
        assert doubted.expires_at is not None
        assert due_at == doubted.expires_at - IN_DOUBT_RETRY_MARGIN


def test_a_short_token_is_served_for_three_quarters_of_its_life() -> None:
    """The margin of a retry in doubt is at most a quarter of the token's life."""
    life = timedelta(seconds=100)
    claim = replace(
        CLAIM, obtained_at=NOW - timedelta(seconds=20), expires_at=NOW - timedelta(seconds=20) + life
    )
    assert claim.expires_at is not None
    decision = decided(Refused(RefusalBlame.IN_DOUBT, "timeout", spent=True), claim)
    assert decision.columns["due_at"] == claim.expires_at - life / 4


def test_a_refresh_token_that_has_just_ended_is_not_hurried() -> None:
    """An end that has come at this moment is past: it does not bring the retry forward."""
    claim = replace(CLAIM, refresh_expires_at=NOW, in_doubt_since=EARLIER)
    waiting = wait_in_doubt(claim, ROTATES, now=NOW)
    assert waiting is not None
    assert claim.expires_at is not None
    assert waiting.columns["due_at"] == claim.expires_at - IN_DOUBT_RETRY_MARGIN


@pytest.mark.parametrize(("attempts", "counted"), [(0, 1), (4, 4)])
def test_a_dead_workers_attempt_is_told_as_one_without_answer(attempts: int, counted: int) -> None:
    """A claim that ran out puts its grant in doubt since it began, and counts as one failure at least."""
    claim = replace(CLAIM, in_doubt_since=EARLIER, attempts=attempts)
    assert claim.expires_at is not None
    assert wait_in_doubt(claim, ROTATES, now=NOW) == Decision(
        Outcome.IN_DOUBT,
        {
            "state": "in_doubt", "reason": "no_answer", "reason_since": EARLIER,
            "due_at": claim.expires_at - IN_DOUBT_RETRY_MARGIN, "last_error": "no_answer", "attempts": counted,
        },
    )  # fmt: skip


def test_a_dead_grant_waits_for_no_doubt() -> None:
    """A dead grant that an app has forced is tried now, whatever was in doubt before it died."""
    dead = replace(CLAIM, state="reauthorization_required", in_doubt_since=EARLIER)
    assert wait_in_doubt(dead, ROTATES, now=NOW) is None


# What was never sent


@pytest.mark.parametrize(("jitter", "wait"), [(0, PROXY_PAUSE), (1, PROXY_PAUSE * 1.2)])
def test_a_refused_tunnel_is_tried_again_soon(jitter: float, wait: timedelta) -> None:
    """A call that the outgoing proxy refused counts as no failure of the grant."""
    columns = {"due_at": NOW + wait, "last_error": "proxy_failed"}
    assert wait_for_proxy(NOW, jitter) == Decision(Outcome.UNSENT, columns)


def test_a_missing_key_waits_as_long_as_a_failure_can() -> None:
    """A refresh token that cannot be decrypted counts as a failure, and no outage of anybody."""
    columns = {"due_at": NOW + schedule.MAX_BACKOFF, "attempts": 3, "last_error": "cannot_open"}
    assert wait_for_key(replace(CLAIM, attempts=2), NOW) == Decision(Outcome.UNREADABLE, columns)


def test_nothing_to_spend_is_never_looked_at_again() -> None:
    """A grant without a token to exchange waits for a login."""
    assert NOTHING_TO_SPEND.columns["due_at"] is None
    assert NOTHING_TO_SPEND.columns["state"] == "unrenewable"
    assert not NOTHING_TO_SPEND.outage


# Grants that nobody reads

DAY = timedelta(days=1)
ON_READ = schedule.RenewalPolicy(read_window=DAY, idle_life=40 * DAY)
UNREAD = replace(CLAIM, obtained_at=NOW - DAY, last_read_at=NOW - 2 * DAY)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_grant_that_nobody_reads_is_put_off(jitter: float) -> None:
    """It is dormant until its refresh token must be used again."""
    due_at = schedule.keep_alive_due_at(NOW - DAY, jitter, ON_READ)
    assert stay_dormant(UNREAD, ON_READ, now=NOW, jitter=jitter) == Decision(
        Outcome.UNSENT, {"due_at": due_at}
    )
    assert due_at > NOW


@pytest.mark.parametrize(
    "awake",
    [
        {"state": "in_doubt"},
        {"state": "reauthorization_required"},
        {"last_read_at": NOW - DAY},
        {"attempts": 1},
        {"in_doubt_since": EARLIER},
        {"obtained_at": None},
        {"is_ordered": True},
    ],
    ids=str,
)
def test_a_grant_that_is_wanted_does_not_sleep(awake: dict[str, Any]) -> None:
    """A grant that is read, in trouble, of unknown age or wanted by the operator is renewed now."""
    assert stay_dormant(replace(UNREAD, **awake), ON_READ, now=NOW, jitter=0.5) is None


def test_a_sleeper_wakes_once_its_time_has_begun() -> None:
    """From half of its idle life on the refresh token is used, whatever its jitter."""
    wakes = replace(UNREAD, obtained_at=NOW - 20 * DAY)
    sleeps = replace(UNREAD, obtained_at=NOW - 20 * DAY + timedelta(seconds=1))
    for jitter in (0.0, 1.0):
        assert stay_dormant(wakes, ON_READ, now=NOW, jitter=jitter) is None
        assert stay_dormant(sleeps, ON_READ, now=NOW, jitter=jitter) is not None


MINUTE = timedelta(minutes=1)
FIRST = NOW - 30 * MINUTE


@pytest.mark.parametrize(
    ("ends", "due_at", "now", "is_told"),
    [
        (FIRST + 60 * MINUTE, FIRST + 60 * MINUTE, NOW, True),
        (FIRST + 60 * MINUTE, FIRST + 59 * MINUTE, NOW, False),
        (FIRST, FIRST + MIN_FAILURE, NOW, True),
        (FIRST, FIRST + MIN_FAILURE - MINUTE, NOW, False),
        # An end that nobody knows is taken to be that of a usual life.
        (None, FIRST + schedule.UNKNOWN_LIFE, NOW, True),
        (None, FIRST + schedule.UNKNOWN_LIFE - MINUTE, NOW, False),
        (FIRST + 90_000 * MINUTE, NOW, FIRST + MAX_UNTOLD_FAILURE, True),
        (FIRST + 90_000 * MINUTE, NOW, FIRST + MAX_UNTOLD_FAILURE - MINUTE, False),
    ],
)
def test_a_failing_grant_is_told_at_these_times(
    ends: datetime | None, due_at: datetime, now: datetime, is_told: bool
) -> None:
    """When its token ends before the next try, after a quarter of an hour at the earliest; or after half a day."""
    claim = replace(CLAIM, attempts=3, failing_since=FIRST, expires_at=ends)
    assert is_told_as_failing(claim, now=now, due_at=due_at) is is_told
