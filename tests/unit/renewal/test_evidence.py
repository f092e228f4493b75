"""Refusals are weighed once: a connection is blamed only on evidence that fits the connection."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers import RefusalBlame, Refused
from worker.renewal.evidence import (
    ANSWERED,
    CLIENT_BLAMED_AT,
    MAX_PRESUMED_DEAD_PAUSE,
    OUTAGE_GRANTS,
    REFUSAL_PAUSES,
    TRIES_WITHOUT_WITNESS,
    Finding,
    Judgement,
    is_own_trouble,
    judge,
    presumed_dead_pause,
    refusal_pause,
    suspicion_of,
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
    """Where no other grant can be asked, the same answer five times tells the operator."""
    tries = 5
    assert weigh(evidence([refusal(1, suspicion, tries - 1)], has_witness=False)) is Finding.NOBODY
    assert weigh(evidence([refusal(1, suspicion, tries)], has_witness=False)) is Finding.CLIENT


def test_an_outage_takes_several_grants() -> None:
    """One grant that always ends in a server error is no outage; five different ones are."""
    found = [refusal(number, Suspicion.OUTAGE) for number in range(5)]
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
    long = refusal(1, Suspicion.OUTAGE, 20, after=12 * 60)
    assert is_own_trouble(long, NOON + timedelta(hours=1))
    assert not is_own_trouble(
        replace(long, last_at=long.last_at - timedelta(minutes=1)), NOON + timedelta(hours=1)
    )


@given(st.integers(1, 1000), st.floats(0, 1))
def test_pauses_grow_and_end(tries: int, jitter: float) -> None:
    """No pause is shorter than the one before it by more than its jitter; the dead wait for a day at the most."""
    assert timedelta(days=1) == MAX_PRESUMED_DEAD_PAUSE
    assert refusal_pause(tries, 0) <= refusal_pause(tries + 1, 0)
    assert timedelta(0) < refusal_pause(tries, jitter) < MAX_PRESUMED_DEAD_PAUSE
    assert presumed_dead_pause(tries - 1, 0) <= presumed_dead_pause(tries, 0) <= MAX_PRESUMED_DEAD_PAUSE
    assert presumed_dead_pause(tries, jitter) == presumed_dead_pause(tries, 0) * (1 + jitter / 5)


def test_the_presumed_dead_are_tried_soon() -> None:
    """A grant that is presumed dead is tried six times in its first day: whatever passes takes it back soon."""
    waits = [presumed_dead_pause(tries, 1) for tries in range(6)]
    assert waits[0] < timedelta(minutes=20)
    assert sum(waits, timedelta(0)) < timedelta(days=1)


def test_who_asks_to_wait_says_nothing_of_the_grant() -> None:
    """A server error that says when to come again is no sign of a dead grant, however long it lasts."""
    for blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT):
        asks, fails = Refused(blame, "http_503", 120.0), Refused(blame, "http_503")
        assert suspicion_of(asks, client_is_proven=True) is Suspicion.THROTTLED
        assert suspicion_of(fails, client_is_proven=True) is Suspicion.OUTAGE


@pytest.mark.parametrize(
    ("blame", "code", "suspicion"),
    [
        (RefusalBlame.OPERATOR, "invalid_client", Suspicion.CLIENT),
        (RefusalBlame.OPERATOR, "invalid_scope", Suspicion.UNCLEAR),
        (RefusalBlame.UNKNOWN, "http_418", Suspicion.UNCLEAR),
        (RefusalBlame.IN_DOUBT, "no_access_token", Suspicion.UNCLEAR),
        (RefusalBlame.IN_DOUBT, "timeout", Suspicion.OUTAGE),
        (RefusalBlame.NOBODY, "http_429", Suspicion.THROTTLED),
        (RefusalBlame.NOBODY, "slow_down", Suspicion.THROTTLED),
        (RefusalBlame.NOBODY, "http_503", Suspicion.OUTAGE),
    ],
)
@pytest.mark.parametrize("proven", [True, False])
def test_what_a_refusal_may_concern(
    blame: RefusalBlame, code: str, suspicion: Suspicion, proven: bool
) -> None:
    """Words about the client, an answer that names nobody, throttling and silence are told apart."""
    assert suspicion_of(Refused(blame, code), client_is_proven=proven) is suspicion


@pytest.mark.parametrize(("proven", "suspicion"), [(True, None), (False, Suspicion.HELD)])
def test_a_verdict_counts_under_a_proven_client(proven: bool, suspicion: Suspicion | None) -> None:
    """A verdict on the grant is held while its client has renewed nothing since it changed."""
    refused = Refused(RefusalBlame.USER, "invalid_grant")
    assert suspicion_of(refused, client_is_proven=proven) is suspicion


@pytest.mark.parametrize("suspicion", sorted(Suspicion))
@pytest.mark.parametrize("open_for", list(Finding))
def test_a_refused_probe_keeps_the_circuit_open(suspicion: Suspicion, open_for: Finding) -> None:
    """One refusal that blames nobody keeps a circuit open that is open for the same reason, and no other."""
    found = evidence([refusal(1, suspicion)])
    same = Finding.CLIENT if suspicion in ANSWERED else Finding.OUTAGE
    expected = open_for if open_for is same else Finding.NOBODY
    assert judge(suspicion, 1, found, open_for=open_for).finding is expected


def test_a_finding_of_its_own_outranks_the_circuits() -> None:
    """Where the evidence blames the client, a circuit that is open for an outage is open for the client."""
    found = evidence([refusal(number, Suspicion.CLIENT) for number in (1, 2, 3)])
    assert judge(Suspicion.CLIENT, 1, found, open_for=Finding.OUTAGE).finding is Finding.CLIENT
    assert judge(Suspicion.OUTAGE, 1, found, open_for=Finding.OUTAGE).finding is Finding.CLIENT


def test_a_judgement_counts_the_grants_own_tries() -> None:
    """A refusal is judged by its own grant's tries, and by whether its client renews others."""
    tries = len(REFUSAL_PAUSES) + 1
    found = [refusal(1, Suspicion.UNCLEAR, tries), refusal(2, Suspicion.UNCLEAR, 2)]
    renewed_at = NOON + timedelta(minutes=1)
    assert judge(Suspicion.UNCLEAR, 1, evidence(found, renewed_at)) == Judgement(
        Suspicion.UNCLEAR, Finding.NOBODY, is_own_trouble=True, tries=tries
    )
    assert judge(Suspicion.UNCLEAR, 2, evidence(found, renewed_at)).tries == 2
    assert not judge(Suspicion.UNCLEAR, 2, evidence(found, renewed_at)).is_own_trouble
    assert judge(Suspicion.UNCLEAR, 3, evidence(found, renewed_at)) == Judgement(Suspicion.UNCLEAR)
    assert judge(Suspicion.UNCLEAR, 1, evidence(found)).wants_witness


def test_a_renewal_at_the_first_refusal_acquits_no_client() -> None:
    """Only a renewal after a grant's first refusal shows that its client is good."""
    tries = len(REFUSAL_PAUSES) + 1
    assert not is_own_trouble(refusal(1, Suspicion.UNCLEAR, tries), NOON)


def test_few_grants_without_an_answer_and_no_witness() -> None:
    """Where no other grant can be asked, silence again and again is an outage."""
    found = [refusal(1, Suspicion.OUTAGE, TRIES_WITHOUT_WITNESS - 2), refusal(2, Suspicion.OUTAGE)]
    assert weigh(evidence(found, has_witness=False)) is Finding.NOBODY
    found.append(refusal(3, Suspicion.THROTTLED))
    assert weigh(evidence(found, has_witness=False)) is Finding.OUTAGE
    assert weigh(evidence(found)) is Finding.NOBODY


def test_silence_beside_an_answer_is_no_outage() -> None:
    """A provider that refuses one grant in words is there, however many others it does not answer."""
    found = [refusal(number, Suspicion.OUTAGE) for number in range(OUTAGE_GRANTS)]
    assert weigh(evidence([*found, refusal(9, Suspicion.UNCLEAR)])) is Finding.NOBODY


def test_words_about_the_client_count_beside_others() -> None:
    """Each grant counts once, and once more where the words are about the client."""
    found = [refusal(1, Suspicion.CLIENT), refusal(2, Suspicion.UNCLEAR), refusal(3, Suspicion.UNCLEAR)]
    assert weigh(evidence(found)) is Finding.NOBODY
    assert weigh(evidence([*found, refusal(4, Suspicion.UNCLEAR)])) is Finding.CLIENT


def test_old_refusals_call_no_witness() -> None:
    """A refusal that a renewal has settled asks for no other grant."""
    assert not wants_witness(evidence([refusal(1, Suspicion.CLIENT)], NOON))
    assert wants_witness(evidence([refusal(1, Suspicion.CLIENT, after=1)], NOON))


def test_pauses_double_after_the_last_one_up_to_four_hours() -> None:
    """The first pauses are as declared; then each is twice the one before, with up to a fifth of jitter."""
    count = len(REFUSAL_PAUSES)
    assert sum(REFUSAL_PAUSES, timedelta()) == timedelta(minutes=10, seconds=30)  # for a trouble to pass
    assert [refusal_pause(tries, 0) for tries in range(1, count + 1)] == [*REFUSAL_PAUSES]
    assert [refusal_pause(count + extra, 0) for extra in (1, 2)] == [
        REFUSAL_PAUSES[-1] * 2,
        REFUSAL_PAUSES[-1] * 4,
    ]
    assert refusal_pause(100, 0) == timedelta(hours=4)
    assert refusal_pause(1, 1) == REFUSAL_PAUSES[0] * 1.2


@given(refusals(), minutes, st.booleans())
def test_whom_a_renewal_acquitted_blames_nobody_again(
    found: list[Refusal], renewed_at: datetime, has_witness: bool
) -> None:
    """Grants that are refused again, as they were before the client's last renewal, say nothing new of it."""
    again = [each for each in found if each.first_at < renewed_at]
    settled = evidence(again, renewed_at, has_witness=has_witness)
    assert weigh(settled) is Finding.NOBODY
    assert not wants_witness(settled)


@pytest.mark.parametrize(
    ("suspicion", "finding"), [(Suspicion.UNCLEAR, Finding.CLIENT), (Suspicion.OUTAGE, Finding.OUTAGE)]
)
def test_a_new_refusal_counts_beside_old_ones(suspicion: Suspicion, finding: Finding) -> None:
    """One grant more that is refused, and those that still are together blame the connection."""
    renewed_at = NOON + timedelta(minutes=1)
    old = [refusal(number, suspicion, 2, after=2) for number in range(1, CLIENT_BLAMED_AT)]
    new = Refusal(9, suspicion, 1, NOON + timedelta(minutes=2), NOON + timedelta(minutes=2))
    assert weigh(evidence(old, renewed_at)) is Finding.NOBODY
    assert weigh(evidence([*old, new], renewed_at)) is finding


def test_a_request_to_wait_is_no_verdict() -> None:
    """A grant that was refused often enough is not presumed dead by an answer that asks for patience."""
    found = [refusal(1, Suspicion.UNCLEAR, len(REFUSAL_PAUSES) + 1)]
    renewed_at = NOON + timedelta(minutes=1)
    assert judge(Suspicion.UNCLEAR, 1, evidence(found, renewed_at)).is_own_trouble
    assert not judge(Suspicion.THROTTLED, 1, evidence(found, renewed_at)).is_own_trouble
