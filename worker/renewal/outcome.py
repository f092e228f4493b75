"""Decides how a renewal ends, and the grant's next state.

Without I/O: time and jitter are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from worker.providers import Provider, RefusalBlame, Refused
from worker.renewal.evidence import (
    ANSWERED,
    SERVER_ERRORS_FOR,
    Finding,
    Judgement,
    presumed_dead_pause,
    refusal_pause,
)
from worker.vault import schedule
from worker.vault.claims import Claim

# A refresh token in doubt is sent again this long before the access token ends. At a provider that revokes all tokens
# of a grant on reuse, an earlier retry gains nothing, and may end the access token that is still served.
IN_DOUBT_RETRY_MARGIN = timedelta(seconds=45)

# A grant is reported as failing once its calls have failed for this long and its token ends before the next call. A
# shorter problem is not worth a report, and by then a refusal with an unknown code is reported as a dead grant. A token
# with much life left is reported after the longer time, while the operator can still act.
MIN_FAILURE = timedelta(minutes=15)
MAX_UNTOLD_FAILURE = SERVER_ERRORS_FOR

# Between two tries while the outgoing proxy opens no tunnel: it may recover at any time.
PROXY_PAUSE = timedelta(seconds=30)


class Outcome(StrEnum):
    """How one renewal ended, as ``status`` counts it."""

    RENEWED = "renewed"
    FRESH = "fresh"
    """Nothing to do: another worker renewed it, or it has enough life."""
    SUPERSEDED = "superseded"
    """A newer login replaced the pair during the call; the newer pair stays."""
    DEAD = "reauthorization_required"
    LOST = "lost_in_rotation"
    BLOCKED = "blocked"
    """The connection's circuit is open, or was opened by this attempt."""
    PAUSED = "paused"
    """The operator has paused the connection, its tenant, or everything."""
    RETRY = "retry"
    IN_DOUBT = "in_doubt"
    UNSENT = "unsent"
    """No request was made: the claim's time was up, or the circuit had opened."""
    UNRENEWABLE = "unrenewable"
    BUSY = "busy"
    """Another worker was still renewing it when the wait was over."""
    FAILED = "failed"
    """An unforeseen error, which is logged; the grant is in doubt after its claim."""
    SPOOLED = "spooled"
    """The new pair is on disk until Postgres can take it."""
    UNREADABLE = "unreadable"
    """The stored refresh token cannot be decrypted: a key is missing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write when a claim ends without a pair.

    Attributes:
        outcome: how the renewal is counted.
        columns: keyword arguments of ``claims.release``.
        outage: the provider itself did not answer, or asked for a pause.
    """

    outcome: Outcome
    columns: dict[str, Any]
    outage: bool = False


def decide(
    refused: Refused,
    claim: Claim,
    provider: Provider,
    *,
    judgement: Judgement,
    client: bytes | None,
    now: datetime,
    jitter: float,
) -> Decision:
    """Turn a refusal into the grant's next state.

    Args:
        judgement: whom the refusal blames, given the connection's other refusals.
        client: the identity of the refused client; it is stored with a dead grant.
        jitter: 0 to 1.
    """
    decision = _decide(refused, claim, provider, judgement, client, now, jitter)
    is_told = judgement.finding is not Finding.NOBODY or decision.outcome in (Outcome.DEAD, Outcome.LOST)
    if is_told or claim.state == "reauthorization_required":
        return decision
    is_failing = is_told_as_failing(claim, now=now, due_at=decision.columns["due_at"])
    return replace(decision, columns=decision.columns | {"is_failing": is_failing})


def is_told_as_failing(claim: Claim, *, now: datetime, due_at: datetime) -> bool:
    """Return whether a grant is reported as failing.

    That is for a grant that is neither dead nor waiting for an open circuit.

    Args:
        due_at: of the next try.
    """
    since = (claim.failing_since if claim.attempts else None) or claim.claimed_at
    ends = claim.expires_at or since + schedule.UNKNOWN_LIFE
    return due_at >= max(ends, since + MIN_FAILURE) or now >= since + MAX_UNTOLD_FAILURE


def _decide(
    refused: Refused,
    claim: Claim,
    provider: Provider,
    judgement: Judgement,
    client: bytes | None,
    now: datetime,
    jitter: float,
) -> Decision:
    attempts = claim.attempts + 1
    allowed_at = now + timedelta(seconds=refused.retry_after or 0)
    retry_at = schedule.after_failure(attempts, now, jitter, refused.retry_after)
    columns: dict[str, Any] = {"attempts": attempts, "last_error": refused.code, "due_at": retry_at}
    if claim.state == "reauthorization_required":
        return _still_dead(refused, claim, columns, client, now, jitter)
    if judgement.suspicion is None:
        return _dead(refused, claim, columns, client, now)
    if judgement.is_own_trouble:
        decision = _dead(refused, claim, columns, client, now)
        # It is only presumed dead, as the error code is unknown. From now on `attempts` counts the tries whether it lives.
        due_at = max(allowed_at, now + presumed_dead_pause(0, jitter))
        return replace(decision, columns=decision.columns | {"due_at": due_at, "attempts": 0})
    if refused.blame is RefusalBlame.IN_DOUBT and refused.spent:
        columns |= {"state": "in_doubt", "reason": refused.code, "in_doubt": True}
        columns |= {"reason_since": claim.in_doubt_since or claim.claimed_at}
        if judgement.suspicion in ANSWERED:
            retry_at = max(retry_at, now + refusal_pause(judgement.tries, jitter))
        columns["due_at"] = max(allowed_at, doubt_due_at(claim, provider, now=now, retry_at=retry_at))
        return Decision(Outcome.IN_DOUBT, columns, outage=judgement.suspicion not in ANSWERED)
    if judgement.suspicion in ANSWERED:
        columns["due_at"] = max(allowed_at, now + refusal_pause(judgement.tries, jitter))
        is_blocked = judgement.finding is Finding.CLIENT
        return Decision(Outcome.BLOCKED if is_blocked else Outcome.RETRY, columns)
    if refused.blame is RefusalBlame.IN_DOUBT and not claim.attempts:
        columns["due_at"] = allowed_at  # nothing was spent, so the first retry is immediate
    return Decision(Outcome.RETRY, columns, outage=True)


def _dead(
    refused: Refused, claim: Claim, columns: dict[str, Any], client: bytes | None, now: datetime
) -> Decision:
    lost = claim.in_doubt_since is not None
    columns |= {
        "state": "reauthorization_required",
        "reason": "lost_in_rotation" if lost else refused.code,
        # It was lost at the attempt whose outcome never became known.
        "reason_since": claim.in_doubt_since or now,
        "due_at": None,
        "doubt_resolved": True,
        "refused_client": client,
    }
    return Decision(Outcome.LOST if lost else Outcome.DEAD, columns)


def _still_dead(
    refused: Refused,
    claim: Claim,
    columns: dict[str, Any],
    client: bytes | None,
    now: datetime,
    jitter: float,
) -> Decision:
    """Keep the verdict on a dead grant."""
    if refused.blame is RefusalBlame.USER:
        columns |= {"due_at": None, "doubt_resolved": True, "refused_client": client}
        return Decision(Outcome.DEAD, columns)
    pause = presumed_dead_pause(claim.attempts + 1, jitter)
    columns["due_at"] = now + max(pause, timedelta(seconds=refused.retry_after or 0))
    outage = refused.blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT)
    return Decision(Outcome.RETRY if outage else Outcome.DEAD, columns, outage=outage)


def doubt_due_at(claim: Claim, provider: Provider, *, now: datetime, retry_at: datetime) -> datetime:
    """Return when to send a refresh token in doubt again.

    If the provider does not rotate refresh tokens, or its grace is not over, a retry is safe and immediate. Otherwise
    it can make the provider revoke all tokens of the grant, including the access token that is still served. If the
    request never arrived, a late retry is as good as an early one, so the access token is served until it ends.
    """
    # In seconds, as a grace may be infinite.
    in_doubt_for = (now - (claim.in_doubt_since or claim.claimed_at)).total_seconds()
    safe = not provider.rotates or (provider.grace is not None and in_doubt_for < provider.grace)
    if safe:
        return now if claim.in_doubt_since is None else retry_at
    if claim.expires_at is None:
        return retry_at
    retry_margin = IN_DOUBT_RETRY_MARGIN if claim.life is None else min(IN_DOUBT_RETRY_MARGIN, claim.life / 4)
    # The refresh token may end first, by age or because it is idle; a retry after that is useless.
    idle = claim.obtained_at + provider.idle_life if claim.obtained_at and provider.idle_life else None
    ends = [end for end in (claim.refresh_expires_at, idle) if end is not None and end > now]
    last = min([claim.expires_at, *ends])
    return max(retry_at, last - retry_margin)


def wait_in_doubt(claim: Claim, provider: Provider, *, now: datetime) -> Decision | None:
    """Decide whether a refresh token in doubt has to wait.

    The claim follows one that expired: its owner died, or may still store an answer.

    Returns:
        A decision that postpones the token's next use; None if it may be used now.
    """
    # A dead grant stays dead: there is nothing to wait for.
    if claim.in_doubt_since is None or claim.state not in ("active", "in_doubt"):
        return None
    due_at = doubt_due_at(claim, provider, now=now, retry_at=now)
    if due_at <= now:
        return None
    if claim.state == "in_doubt":
        # It has waited already. But a retry that was planned within the grace may come after the grace: then it waits
        # again. Without a failed attempt, this token was never sent, only the one before it, so there is no wait.
        planned_in_grace = provider.grace and claim.attempts
        return Decision(Outcome.IN_DOUBT, {"due_at": due_at}) if planned_in_grace else None
    columns = {
        "state": "in_doubt", "reason": "no_answer", "reason_since": claim.in_doubt_since, "due_at": due_at,
        "last_error": "no_answer", "attempts": max(claim.attempts, 1),
    }  # fmt: skip
    return Decision(Outcome.IN_DOUBT, columns)


def stay_dormant(
    claim: Claim, policy: schedule.RenewalPolicy, *, now: datetime, jitter: float
) -> Decision | None:
    """Postpone a grant that nobody reads.

    None if its refresh token could end unused.

    Args:
        jitter: 0 to 1.
    """
    if claim.state != "active" or not policy.is_dormant(claim.last_read_at, now) or claim.attempts:
        return None
    if claim.in_doubt_since is not None or claim.obtained_at is None or claim.is_ordered:
        return None
    earliest, due_at = (
        schedule.keep_alive_due_at(claim.obtained_at, each, policy, claim.refresh_expires_at)
        for each in (1, jitter)
    )
    return Decision(Outcome.UNSENT, {"due_at": due_at}) if earliest > now else None


NOTHING_TO_SPEND = Decision(
    Outcome.UNRENEWABLE, {"due_at": None, "state": "unrenewable", "reason": "no_refresh_token"}
)
"""There is no refresh token, and no access token that the provider accepts instead."""


def wait_for_proxy(now: datetime, jitter: float) -> Decision:
    """Postpone a grant whose call failed at the outgoing proxy.

    Nothing was sent, so this says nothing about the grant, its client or its provider.
    """
    return Decision(
        Outcome.UNSENT, {"due_at": now + PROXY_PAUSE * (1 + jitter / 5), "last_error": "proxy_failed"}
    )


def wait_for_key(claim: Claim, now: datetime) -> Decision:
    """Postpone a grant whose key is missing."""
    columns = {
        "due_at": now + schedule.MAX_BACKOFF, "attempts": claim.attempts + 1, "last_error": "cannot_open",
    }  # fmt: skip
    return Decision(Outcome.UNREADABLE, columns)
