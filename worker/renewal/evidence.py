"""Weighs refusals: who is to blame.

One refusal seldom shows who is to blame. Providers answer dead grants with error codes that are meant for clients, and
wrong clients with codes that are meant for grants. So a refusal is kept as evidence. It blames the connection only if
several grants were refused under the same client, and none was renewed since. Without I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from worker.providers import CLIENT_REFUSED, RefusalBlame, Refused
from worker.providers.error_codes import BLAMES
from worker.vault.refusals.refusals import Evidence, Refusal, Suspicion

# The client is blamed when the refusals of different grants, with no renewal in between, reach this weight. An ambiguous
# error code weighs one, a code about the client two. So a wrong client costs at most this number of calls.
CLIENT_BLAMED_AT = 5
CLIENT_WORDS_WEIGH = 2
# The provider has an outage when this many different grants got no answer.
OUTAGE_GRANTS = 5
# If a connection has fewer grants, and all were refused, this many refusals in total are enough.
TRIES_WITHOUT_WITNESS = 5

# Between the tries of an ambiguously refused grant: time for a passing problem to pass. If the grant is refused after
# the last pause too, and its client renewed others meanwhile, the grant is presumed dead.
REFUSAL_PAUSES = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=8))
# A grant whose calls end in server errors for this long, while its client renews others, is presumed dead.
SERVER_ERRORS_FOR = timedelta(hours=12)
# A grant that is presumed dead is tried again after the first pause, then after twice as long each time, up to the
# longest. If it lives after all, it recovers by itself, after about twice the time that its problem lasted.
FIRST_PRESUMED_DEAD_PAUSE = timedelta(minutes=15)
MAX_PRESUMED_DEAD_PAUSE = timedelta(days=1)


ANSWERED = frozenset({Suspicion.CLIENT, Suspicion.UNCLEAR, Suspicion.HELD})
"""The answer came from the provider itself, so it has no outage."""


def suspicion_of(refused: Refused, *, client_is_proven: bool) -> Suspicion | None:
    """Return whom a refusal may concern.

    None if it is the provider's verdict on the grant.

    Args:
        client_is_proven: the client has renewed a grant since it changed, or has never changed.
    """
    match refused.blame:
        case RefusalBlame.USER:
            return None if client_is_proven else Suspicion.HELD
        case RefusalBlame.OPERATOR:
            return Suspicion.CLIENT if refused.code in CLIENT_REFUSED else Suspicion.UNCLEAR
        case RefusalBlame.UNKNOWN:
            return Suspicion.UNCLEAR
        case RefusalBlame.IN_DOUBT if refused.code == "no_access_token":
            return Suspicion.UNCLEAR  # the provider itself answered, but without a token
        case _:
            return Suspicion.THROTTLED if _asks_to_wait(refused) else Suspicion.OUTAGE


def _asks_to_wait(refused: Refused) -> bool:
    """Return whether a failure asks to wait, also by ``Retry-After``."""
    is_code = refused.code == "http_429" or (refused.code in BLAMES and refused.code != "server_error")
    return (refused.blame is RefusalBlame.NOBODY and is_code) or bool(refused.retry_after)


class Finding(StrEnum):
    """Whom the evidence blames."""

    NOBODY = "nobody"
    """The connection is not to blame: each grant is tried again by itself."""
    CLIENT = "client"
    """The operator has to act; the circuit opens."""
    OUTAGE = "outage"
    """The provider has an outage; the circuit opens, and nobody has to act."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a refusal means, given the connection's other refusals.

    Attributes:
        suspicion: whom it may concern; None if it is the provider's verdict on the grant.
        finding: whom all of the connection's refusals blame.
        is_own_trouble: the grant is presumed dead, because its client renews others.
        tries: refusals of the grant in a row, including this one.
        wants_witness: another grant should be tried now.
    """

    suspicion: Suspicion | None
    finding: Finding = Finding.NOBODY
    is_own_trouble: bool = False
    tries: int = 1
    wants_witness: bool = False


def judge(
    suspicion: Suspicion, grant_id: int, evidence: Evidence, *, open_for: Finding = Finding.NOBODY
) -> Judgement:
    """Weigh a grant's newest refusal, already part of the evidence.

    Args:
        open_for: whom the open circuit blames; a probe that is refused in the same way keeps it open.
    """
    own = evidence.of(grant_id)
    finding = weigh(evidence)
    is_same = open_for is (Finding.CLIENT if suspicion in ANSWERED else Finding.OUTAGE)
    return Judgement(
        suspicion,
        finding=open_for if finding is Finding.NOBODY and is_same else finding,
        # An answer that asks to wait is no verdict on the grant, whatever its earlier answers were.
        is_own_trouble=own is not None
        and own.suspicion is suspicion
        and is_own_trouble(own, evidence.renewed_at),
        tries=own.tries if own else 1,
        wants_witness=wants_witness(evidence),
    )


def weigh(evidence: Evidence) -> Finding:
    """Say whom the refusals since the last renewal blame."""
    since = [each for each in evidence.refusals if _is_later(each.last_at, evidence.renewed_at)]
    answered = [each for each in since if each.suspicion in ANSWERED]
    if _has_new(answered, evidence) and _blames_client(answered, has_witness=evidence.has_witness):
        return Finding.CLIENT
    silent = [
        each
        for each in since
        if each.suspicion not in ANSWERED and _is_later(each.last_at, evidence.answered_at)
    ]
    if not answered and _has_new(silent, evidence) and _is_outage(silent, has_witness=evidence.has_witness):
        return Finding.OUTAGE
    return Finding.NOBODY


def wants_witness(evidence: Evidence) -> bool:
    """Return whether to try another grant now, due or not.

    For error codes about the client that settles the question at once. Other codes wait for the connection's next
    renewal, unless the grant's tries are used up: with tokens that live for months, that renewal would come too late.
    """
    return evidence.has_witness and any(
        _is_later(each.last_at, evidence.renewed_at)
        and not _is_acquitted(each, evidence.renewed_at)
        and (
            each.suspicion is Suspicion.CLIENT
            or (each.suspicion is Suspicion.UNCLEAR and each.tries > len(REFUSAL_PAUSES))
        )
        for each in evidence.refusals
    )


def is_own_trouble(refusal: Refusal, renewed_at: datetime | None) -> bool:
    """Return whether a grant is presumed dead.

    Args:
        refusal: the grant's refusals in a row, including the latest.
        renewed_at: when the client last renewed another grant.
    """
    if not _is_acquitted(refusal, renewed_at):
        return False
    match refusal.suspicion:
        case Suspicion.CLIENT | Suspicion.UNCLEAR:
            return refusal.tries > len(REFUSAL_PAUSES)
        case Suspicion.OUTAGE:
            return refusal.last_at - refusal.first_at >= SERVER_ERRORS_FOR
        case Suspicion.HELD | Suspicion.THROTTLED:
            return False


def refusal_pause(tries: int, jitter: float) -> timedelta:
    """Return how long an ambiguously refused grant waits.

    Args:
        tries: refusals in a row, including the latest.
        jitter: 0 to 1; it adds up to a fifth.
    """
    pause = REFUSAL_PAUSES[min(tries, len(REFUSAL_PAUSES)) - 1]
    extra = max(0, tries - len(REFUSAL_PAUSES))
    return min(pause * 2.0 ** min(extra, 10), timedelta(hours=4)) * (1 + jitter / 5)


def presumed_dead_pause(tries: int, jitter: float) -> timedelta:
    """Return how long a presumed-dead grant waits.

    Args:
        tries: how often it was tried since it was presumed dead.
        jitter: 0 to 1, uniform; adds up to a fifth.
    """
    pause = min(FIRST_PRESUMED_DEAD_PAUSE * 2.0 ** min(tries, 10), MAX_PRESUMED_DEAD_PAUSE)
    return pause * (1 + jitter / 5)


def _is_acquitted(refusal: Refusal, renewed_at: datetime | None) -> bool:
    """Return whether the client renewed another grant since."""
    return renewed_at is not None and renewed_at > refusal.first_at


def _has_new(refusals: Sequence[Refusal], evidence: Evidence) -> bool:
    """Return whether any first refusal follows the last renewal.

    Otherwise dead grants would open the circuit again after each renewal of the others.
    """
    return any(not _is_acquitted(each, evidence.renewed_at) for each in refusals)


def _blames_client(refusals: Sequence[Refusal], *, has_witness: bool) -> bool:
    about_client = sum(each.suspicion is Suspicion.CLIENT for each in refusals)
    if len(refusals) + about_client * (CLIENT_WORDS_WEIGH - 1) >= CLIENT_BLAMED_AT:
        return True
    if has_witness:
        return False
    return bool(about_client) or sum(each.tries for each in refusals) >= TRIES_WITHOUT_WITNESS


def _is_outage(refusals: Sequence[Refusal], *, has_witness: bool) -> bool:
    if len(refusals) >= OUTAGE_GRANTS:
        return True
    return not has_witness and sum(each.tries for each in refusals) >= TRIES_WITHOUT_WITNESS


def _is_later(at: datetime, than: datetime | None) -> bool:
    return than is None or at > than
