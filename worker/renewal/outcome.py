"""How a renewal ends, and the grant's next state.

Pure: time and jitter are arguments.
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

# A token in doubt is spent again this long before the access token ends. At a provider that revokes the family on
# reuse an earlier retry wins nothing, and may end the access token that is still served.
IN_DOUBT_RETRY_MARGIN = timedelta(seconds=45)


# A grant is told as failing once its calls have failed for so long and its token ends before the next one: what passes
# sooner is no news, and by then a refusal in unknown words is told as a death. A token with much life left is told of
# while there is still time to act.
MIN_FAILURE = timedelta(minutes=15)
MAX_UNTOLD_FAILURE = SERVER_ERRORS_FOR

# Between two tries while the outgoing proxy opens no tunnel: it may be back at any time.
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
        outcome: for the counts.
        columns: keyword arguments of ``claims.release``.
        outage: the provider did not answer for itself, or asked for a pause.
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
        judgement: whom the refusal blames, beside the others of its connection.
        client: the identity of the client that was refused, kept with a death.
    """
    decision = _decide(refused, claim, provider, judgement, client, now, jitter)
    is_told = judgement.finding is not Finding.NOBODY or decision.outcome in (Outcome.DEAD, Outcome.LOST)
    if is_told or claim.state == "reauthorization_required":
        return decision
    is_failing = is_told_as_failing(claim, now=now, due_at=decision.columns["due_at"])
    return replace(decision, columns=decision.columns | {"is_failing": is_failing})


def is_told_as_failing(claim: Claim, *, now: datetime, due_at: datetime) -> bool:
    """Return whether somebody is told that a grant's renewals fail.

    Nobody has said that it is dead, and no circuit that it waits for.

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
        # Presumed dead, in words that nobody knows: from now on its attempts count the looks whether it lives.
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
        columns["due_at"] = allowed_at  # nothing was spent: the first retry is made at once
    return Decision(Outcome.RETRY, columns, outage=True)


def _dead(
    refused: Refused, claim: Claim, columns: dict[str, Any], client: bytes | None, now: datetime
) -> Decision:
    lost = claim.in_doubt_since is not None
    columns |= {
        "state": "reauthorization_required",
        "reason": "lost_in_rotation" if lost else refused.code,
        # It was lost by the attempt whose outcome never came.
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
    """Return when to spend a refresh token in doubt again.

    Where the provider does not rotate, or its grace lasts, a retry is safe and made at once. Elsewhere a retry can
    make the provider revoke the whole family, including the access token that is still served. If the request never
    arrived, a late retry is as good as an early one: so the access token is served to its end first.
    """
    in_doubt_for = (
        now - (claim.in_doubt_since or claim.claimed_at)
    ).total_seconds()  # in seconds: a grace may be infinite
    safe = not provider.rotates or (provider.grace is not None and in_doubt_for < provider.grace)
    if safe:
        return now if claim.in_doubt_since is None else retry_at
    if claim.expires_at is None:
        return retry_at
    retry_margin = IN_DOUBT_RETRY_MARGIN if claim.life is None else min(IN_DOUBT_RETRY_MARGIN, claim.life / 4)
    # The refresh token may end first, of age or idleness: a retry after that is of no use.
    idle = claim.obtained_at + provider.idle_life if claim.obtained_at and provider.idle_life else None
    ends = [end for end in (claim.refresh_expires_at, idle) if end is not None and end > now]
    last = min([claim.expires_at, *ends])
    return max(retry_at, last - retry_margin)


def wait_in_doubt(claim: Claim, provider: Provider, *, now: datetime) -> Decision | None:
    """Decide about a claim that follows one which ran out.

    The earlier owner died, or its answer may still be stored.

    Returns:
        A release that puts off the next use of the refresh token, or None where it may be used now.
    """
    # A dead grant keeps its verdict: nothing to wait for.
    if claim.in_doubt_since is None or claim.state not in ("active", "in_doubt"):
        return None
    due_at = doubt_due_at(claim, provider, now=now, retry_at=now)
    if due_at <= now:
        return None
    if claim.state == "in_doubt":
        # It has waited already. But a retry that was planned within the grace may come after it: then it waits again.
        # Without a failed attempt this token was never sent: only the reuse of the token before it is feared.
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
    """Put off a grant that nobody reads.

    Its refresh token must be in no danger of ending unused.

    Args:
        jitter: 0 to 1, uniform.
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
"""No refresh token, and no access token that the provider would take instead."""


def wait_for_proxy(now: datetime, jitter: float) -> Decision:
    """Put off a grant whose call the outgoing proxy refused.

    Nothing was sent, and nothing is said of the grant, its client or its provider.
    """
    return Decision(
        Outcome.UNSENT, {"due_at": now + PROXY_PAUSE * (1 + jitter / 5), "last_error": "proxy_failed"}
    )


def wait_for_key(claim: Claim, now: datetime) -> Decision:
    """Put off a grant whose key is missing."""
    columns = {
        "due_at": now + schedule.MAX_BACKOFF, "attempts": claim.attempts + 1, "last_error": "cannot_open",
    }  # fmt: skip
    return Decision(Outcome.UNREADABLE, columns)
