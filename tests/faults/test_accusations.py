"""What the fault suite accuses, and what it excuses."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from tests.faults.accusations import (
    claims_taken_early,
    deaths_outside,
    double_spends,
    losses_without_fault,
    unclaimed_spends,
)
from tests.faults.evidence import Call, ClaimPeriod, Death, Evidence

KEY = ("strict-1", "u1")
CALL = Call(note="first", key=KEY, token="spent", arrived=10.0, left=10.1, fault=None, spends=True)
CLAIM = ClaimPeriod("one", 1, made=9.9, until=26.0)
DEATH = Death(KEY, "oauth2|u1", 60.0, "lost_in_rotation", "spent", is_news=True)
CALL_SECONDS = 4.0


def a_loss(call: Call = CALL, /, **steps: float) -> Evidence:
    """A grant that died because its token was spent by this call."""
    return Evidence(
        calls=[call],
        claims={KEY: [CLAIM]},
        deaths=[DEATH],
        steps={"first": {"sending": 9.95} | steps},
        pids={"first": 1},
        tokens={
            "spent": {
                "family": "g1",
                "spent_at": 10.0,
                "revoked": True,
                "digest": "spent",
                "presented_at": [10.0],
            }
        },
        families={"g1": {"refresh": []}},
    )


def test_a_loss_without_a_fault_is_accused() -> None:
    """A token whose call nothing disturbed was lost by the vault."""
    unexplained, slow = losses_without_fault(a_loss(answered=10.1, ended=10.2), CALL_SECONDS)
    assert (len(unexplained), slow) == (1, 0)


@pytest.mark.parametrize(
    ("call", "answered", "is_slow"),
    [
        (replace(CALL, arrived=10.0, left=13.5), 14.0, True),
        (replace(CALL, arrived=14.5, left=14.5), 14.0, True),
        (replace(CALL, arrived=10.0, left=11.9), 14.0, False),
        (replace(CALL, arrived=10.0, left=13.5), 13.9, False),
        (CALL, 14.0, False),
    ],
)
def test_a_call_that_the_provider_kept_beyond_its_time_is_counted_apart(
    call: Call, answered: float, is_slow: bool
) -> None:
    """Its whole time was up, and the provider had it for most of that; an answer that was there in time is a loss."""
    unexplained, slow = losses_without_fault(a_loss(call, answered=answered, ended=14.2), CALL_SECONDS)
    assert (len(unexplained), slow) == (not is_slow, is_slow)


@pytest.mark.parametrize(
    ("fault", "left", "is_excused"),
    [("cut", 10.1, True), ("reset_after", 10.1, True), ("status", 10.1, True), ("delay", 14.1, True),
     ("delay", 12.0, False), ("override", 10.1, False)],
)  # fmt: skip
def test_an_answer_that_was_not_let_through_excuses(fault: str, left: float, is_excused: bool) -> None:
    """Cut off, or later than the call lasts: the loss is the fault's; a delay within the call excuses nothing."""
    found = a_loss(replace(CALL, fault=fault, left=left), ended=left + 0.1)
    assert bool(losses_without_fault(found, CALL_SECONDS)[0]) is not is_excused


@pytest.mark.parametrize(
    ("steps", "pid", "killed", "is_excused"),
    [
        ({}, 1, 10.5, True),
        ({"answered": 10.1}, 1, 10.15, True),
        ({}, 2, 10.5, False),
        ({"answered": 10.1, "ended": 10.2}, 1, 10.5, False),
        ({"answered": 10.1, "spooled": 10.2}, 1, 10.5, False),
        ({"answered": 10.1, "committed": 10.2}, 1, 10.5, False),
    ],
)
def test_a_kill_excuses_the_call_that_it_ended(
    steps: dict[str, float], pid: int, killed: float, is_excused: bool
) -> None:
    """Not another process's call, nor one whose answer was safe or whose attempt was over."""
    found = a_loss(**steps)
    found.kills[pid] = killed
    assert bool(losses_without_fault(found, CALL_SECONDS)[0]) is not is_excused


@pytest.mark.parametrize(("began", "ended", "is_excused"), [(9.0, 18.0, True), (11.0, 19.0, False)])
def test_a_pause_excuses_the_call_that_it_overlaps(began: float, ended: float, is_excused: bool) -> None:
    """A process that was stopped later, when its call was over, has no excuse."""
    found = a_loss(ended=10.2)
    found.pauses[1] = [(began, ended)]
    assert bool(losses_without_fault(found, CALL_SECONDS)[0]) is not is_excused


def test_a_moved_clock_excuses_the_call_that_it_overlaps() -> None:
    """Claims end by the database's clock: it was moved during the call, or it was not."""
    found = a_loss(ended=10.2)
    found.jumps = [10.3]
    assert losses_without_fault(found, CALL_SECONDS)[0]
    found.jumps = [10.15]
    assert not losses_without_fault(found, CALL_SECONDS)[0]


@pytest.mark.parametrize(
    ("reason", "spent_at", "is_outside"),
    [("lost_in_rotation", 10.0, False), ("invalid_grant", 10.0, True), ("lost_in_rotation", None, True)],
)
def test_a_death_is_a_loss_of_a_spent_token(reason: str, spent_at: float | None, is_outside: bool) -> None:
    """Nobody withdraws consent here: any other death, and that of a living token, is the vault's fault."""
    found = a_loss()
    found.deaths = [replace(DEATH, reason=reason)]
    found.tokens["spent"] |= {"spent_at": spent_at, "revoked": False}
    assert bool(deaths_outside(found)) is is_outside


def twice(again: Call, *claims: ClaimPeriod) -> Evidence:
    """A token that was presented again."""
    found = a_loss(ended=10.2)
    found.calls, found.claims = [CALL, again], {KEY: list(claims)}
    return found


AGAIN = replace(CALL, note="again", arrived=30.0, left=30.1, spends=False)
LAPSED, NEXT = replace(CLAIM, ended=27.0), ClaimPeriod("two", 1, made=27.0, until=43.0)


def test_a_retry_after_the_first_claim_is_none() -> None:
    """Under a claim of its own, when the first call and its claim are over, a token in doubt may come back."""
    assert double_spends(twice(AGAIN, LAPSED, NEXT)) == ([], 1)


@pytest.mark.parametrize(
    ("first", "again", "claims"),
    [
        (replace(CALL, left=31.0), AGAIN, [LAPSED, NEXT]),
        (CALL, replace(AGAIN, arrived=12.0), [CLAIM]),
        (CALL, replace(AGAIN, arrived=12.0),
         [replace(CLAIM, ended=11.0, overtaken=True), ClaimPeriod("two", 1, made=11.0, until=27.0)]),
    ],
)  # fmt: skip
def test_a_double_spend_is_judged_by_the_ledger(first: Call, again: Call, claims: list[ClaimPeriod]) -> None:
    """Presented during the first call, twice under one claim, or while another's claim stood."""
    found = twice(again, *claims)
    found.calls[0] = first
    assert len(double_spends(found)[0]) == 1


@pytest.mark.parametrize(
    ("claims", "is_accused"),
    [([], True), ([CLAIM], False), ([replace(CLAIM, until=9.95)], True), ([replace(CLAIM, ended=9.95)], True),
     ([replace(CLAIM, ended=9.97, replaced=True)], False), ([replace(CLAIM, ended=9.93, replaced=True)], True),
     ([replace(CLAIM, made=10.05)], True), ([replace(CLAIM, made=5.0, ended=7.0), replace(CLAIM, made=7.0, ended=9.95)], False)],
)  # fmt: skip
def test_a_token_is_presented_under_a_claim(claims: list[ClaimPeriod], is_accused: bool) -> None:
    """Which was committed before, and stands; but for what a login, or the first call's late answer, overtakes."""
    found = a_loss()
    found.claims = {KEY: claims}
    assert bool(list(unclaimed_spends(found))) is is_accused


def test_a_claim_stands_until_its_deadline() -> None:
    """Whoever takes it over before is accused."""
    found = a_loss()
    assert not claims_taken_early(found)
    found.claims[KEY][0] = replace(CLAIM, overtaken=True)
    assert claims_taken_early(found)


def test_a_call_that_the_provider_never_ended_is_under_way() -> None:
    """Its token is presented during it, whenever that is."""
    found = twice(AGAIN, LAPSED, NEXT)
    found.calls[0] = replace(CALL, left=inf)
    assert len(double_spends(found)[0]) == 1
