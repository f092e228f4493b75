"""Refusals are weighed once: a connection is blamed only on evidence that fits the connection."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.renewal.evidence import (
    ANSWERED,
    CLIENT_BLAMED_AT,
    OUTAGE_GRANTS,
    PRESUMED_DEAD_PAUSE,
    REFUSAL_PAUSES,
    SERVER_ERRORS_FOR,
    TRIES_WITHOUT_WITNESS,
    Finding,
    is_own_trouble,
    refusal_pause,
    wants_witness,
    weigh,
)
from worker.vault.refusals.refusals import Evidence, Refusal, Suspicion

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
minutes = st.integers(-600, 600).map(lambda count: NOON + timedelta(minutes=count))


@st.composite
def refusals(draw: st.DrawFn, suspicions: frozenset[Suspicion] = frozenset(Suspicion)) -> list[Refusal]:
    """Refusals of different grants."""
    found = []
    for grant_id in draw(st.sets(st.integers(1, 12), max_size=12)):
        first, last = sorted([draw(minutes), draw(minutes)])
        suspicion = draw(st.sampled_from(sorted(suspicions)))
        found.append(Refusal(grant_id, suspicion, draw(st.integers(1, 60)), first, last))
    return found


def evidence(
    found: list[Refusal],
    renewed_at: datetime | None = None,
    answered_at: datetime | None = None,
    *,
    has_witness: bool = True,
) -> Evidence:
    return Evidence(found, renewed_at, answered_at, has_witness)


def refusal(grant_id: int, suspicion: Suspicion, tries: int = 1, after: float = 0) -> Refusal:
    return Refusal(grant_id, suspicion, tries, NOON, NOON + timedelta(minutes=after))


@given(refusals(), st.booleans())
def test_a_renewal_acquits(found: list[Refusal], has_witness: bool) -> None:
    """Whatever was refused before the client's last renewal blames nobody, and asks for no witness."""
    renewed_at = max((each.last_at for each in found), default=NOON)
    settled = evidence(found, renewed_at, has_witness=has_witness)
    assert weigh(settled) is Finding.NOBODY
    assert not wants_witness(settled)


@given(
    st.sampled_from(sorted(Suspicion)), st.integers(1, 10_000), st.one_of(st.none(), minutes), st.booleans()
)
def test_one_grant_never_blames_its_connection(
    suspicion: Suspicion, tries: int, renewed_at: datetime | None, answered: bool
) -> None:
    """However often one grant is refused, in whatever words: others are left to ask."""
    found = [refusal(1, suspicion, tries, after=tries)]
    assert weigh(evidence(found, renewed_at, NOON if answered else None)) is Finding.NOBODY


@given(refusals(), st.one_of(st.none(), minutes), st.one_of(st.none(), minutes), st.booleans(), st.randoms())
def test_the_order_of_refusals_is_no_evidence(
    found: list[Refusal],
    renewed_at: datetime | None,
    answered_at: datetime | None,
    has_witness: bool,
    random: object,
) -> None:
    """The same refusals in another order are the same evidence."""
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert weigh(evidence(found, renewed_at, answered_at, has_witness=has_witness)) is weigh(
        evidence(shuffled, renewed_at, answered_at, has_witness=has_witness)
    )


@given(refusals(frozenset({Suspicion.OUTAGE, Suspicion.THROTTLED})), st.booleans())
def test_silence_never_blames_the_client(found: list[Refusal], has_witness: bool) -> None:
    """Without an answer of the provider's own nothing is known of the client."""
    assert weigh(evidence(found, has_witness=has_witness)) is not Finding.CLIENT


@given(refusals(), st.booleans())
def test_an_answer_ends_an_outage(found: list[Refusal], has_witness: bool) -> None:
    """A provider that has answered for itself since has no outage."""
    answered_at = max((each.last_at for each in found), default=NOON)
    assert weigh(evidence(found, None, answered_at, has_witness=has_witness)) is not Finding.OUTAGE


@given(refusals(ANSWERED))
def test_a_wrong_client_costs_a_handful_of_calls(found: list[Refusal]) -> None:
    """So many grants refused, none renewed: the client is blamed, at the first call more."""
    if len(found) >= CLIENT_BLAMED_AT:
        assert weigh(evidence(found)) is Finding.CLIENT


def test_words_about_the_client_weigh_twice() -> None:
    """Three grants refused as ``invalid_client`` are enough, two are not."""
    found = [refusal(number, Suspicion.CLIENT) for number in (1, 2, 3)]
    assert weigh(evidence(found[:2])) is Finding.NOBODY
    assert weigh(evidence(found)) is Finding.CLIENT


def test_without_a_witness_words_about_the_client_are_believed() -> None:
    """A connection of one grant cannot ask another one."""
    assert weigh(evidence([refusal(1, Suspicion.CLIENT)], has_witness=False)) is Finding.CLIENT


@pytest.mark.parametrize("suspicion", [Suspicion.UNCLEAR, Suspicion.HELD])
def test_without_a_witness_unclear_words_take_several_tries(suspicion: Suspicion) -> None:
    """Where no other grant can be asked, the same answer again and again tells the operator."""
    tries = TRIES_WITHOUT_WITNESS
    assert weigh(evidence([refusal(1, suspicion, tries - 1)], has_witness=False)) is Finding.NOBODY
    assert weigh(evidence([refusal(1, suspicion, tries)], has_witness=False)) is Finding.CLIENT


def test_an_outage_takes_several_grants() -> None:
    """One grant that always ends in a server error is no outage; five different ones are."""
    found = [refusal(number, Suspicion.OUTAGE) for number in range(OUTAGE_GRANTS)]
    assert weigh(evidence(found[:-1])) is Finding.NOBODY
    assert weigh(evidence(found)) is Finding.OUTAGE


def test_a_witness_is_asked_for_words_about_the_client() -> None:
    """Words about the client are settled at once; unclear ones once their tries are used up."""
    assert wants_witness(evidence([refusal(1, Suspicion.CLIENT)]))
    assert not wants_witness(evidence([refusal(1, Suspicion.CLIENT)], has_witness=False))
    tries = len(REFUSAL_PAUSES) + 1
    assert not wants_witness(evidence([refusal(1, Suspicion.UNCLEAR, tries - 1)]))
    assert wants_witness(evidence([refusal(1, Suspicion.UNCLEAR, tries)]))
    assert not wants_witness(evidence([refusal(1, Suspicion.OUTAGE, tries)]))


@given(refusals(), st.one_of(st.none(), minutes))
def test_nothing_is_a_grants_own_trouble_before_its_client_is_acquitted(
    found: list[Refusal], renewed_at: datetime | None
) -> None:
    """Without a renewal of another grant after the first refusal, no user is sent to consent again."""
    for each in found:
        if renewed_at is None or renewed_at <= each.first_at:
            assert not is_own_trouble(each, renewed_at)


def test_a_dead_grant_in_unknown_words_is_its_own_trouble() -> None:
    """Refused as often as is waited for what passes, while its client renews others."""
    tries = len(REFUSAL_PAUSES) + 1
    after = timedelta(minutes=1)
    assert is_own_trouble(refusal(1, Suspicion.UNCLEAR, tries), NOON + after)
    assert is_own_trouble(refusal(1, Suspicion.CLIENT, tries), NOON + after)
    assert not is_own_trouble(refusal(1, Suspicion.UNCLEAR, tries - 1), NOON + after)
    assert not is_own_trouble(refusal(1, Suspicion.THROTTLED, 1000, after=6000), NOON + after)


def test_server_errors_take_half_a_day_to_be_told() -> None:
    """A server error may pass: a grant that meets nothing else is told within the day."""
    long = refusal(1, Suspicion.OUTAGE, 20, after=SERVER_ERRORS_FOR / timedelta(minutes=1))
    assert is_own_trouble(long, NOON + timedelta(hours=1))
    assert not is_own_trouble(
        replace(long, last_at=long.last_at - timedelta(minutes=1)), NOON + timedelta(hours=1)
    )


@given(st.integers(1, 1000), st.floats(0, 1))
def test_pauses_grow_and_end(tries: int, jitter: float) -> None:
    """No pause is shorter than the one before it by more than its jitter, and none as long as a day."""
    assert refusal_pause(tries, 0) <= refusal_pause(tries + 1, 0)
    assert timedelta(0) < refusal_pause(tries, jitter) < PRESUMED_DEAD_PAUSE
