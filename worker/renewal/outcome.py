"""How renewals end, and a grant's state after a refusal.

Pure: time and jitter are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from worker.providers import Provider, RefusalBlame, Refused
from worker.vault import schedule
from worker.vault.claims import Claim

# Refusals of an unknown kind in a row, before they are taken for the operator's.
MAX_UNKNOWN_REFUSALS = 5
# A token in doubt is spent again this long before the access token ends. At a provider that revokes the family on
# reuse an earlier retry wins nothing, and may end the access token that is still served.
IN_DOUBT_RETRY_MARGIN = timedelta(seconds=45)


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
        opens_circuit: whether the refusal may open the connection's circuit; where it might be this grant's own
            trouble, it does once another grant is refused as well.
        columns: keyword arguments of ``claims.release``.
        outage: the provider did not answer for itself, or asked for a pause.
    """

    outcome: Outcome
    opens_circuit: bool
    columns: dict[str, Any]
    outage: bool = False


def decide(refused: Refused, claim: Claim, provider: Provider, *, now: datetime, jitter: float) -> Decision:
    """Turn a refusal into the grant's next state.

    Only the provider's verdict on this grant marks it dead.
    """
    attempts = claim.attempts + 1
    allowed_at = now + timedelta(seconds=refused.retry_after or 0)
    retry_at = schedule.after_failure(attempts, now, jitter, refused.retry_after)
    columns: dict[str, Any] = {"attempts": attempts, "last_error": refused.code, "due_at": retry_at}
    if claim.state == "reauthorization_required":
        return _still_dead(refused, columns)
    if refused.blame is RefusalBlame.USER:
        return _dead(refused, claim, columns, now)
    if refused.blame is RefusalBlame.IN_DOUBT and refused.spent:
        columns |= {"state": "in_doubt", "reason": refused.code, "in_doubt": True}
        columns |= {"reason_since": claim.in_doubt_since or claim.claimed_at}
        columns["due_at"] = max(allowed_at, doubt_due_at(claim, provider, now=now, retry_at=retry_at))
        return Decision(Outcome.IN_DOUBT, False, columns, outage=True)
    if refused.blame is RefusalBlame.IN_DOUBT and not claim.attempts:
        columns["due_at"] = allowed_at  # nothing was spent: the first retry is made at once
    if refused.blame is RefusalBlame.OPERATOR or (
        refused.blame is RefusalBlame.UNKNOWN and attempts >= MAX_UNKNOWN_REFUSALS
    ):
        # The grant itself is still good. It is due a little later, so that the connection's probe picks another
        # grant: if this is the only one that is refused so, it must not keep the others blocked.
        return Decision(Outcome.BLOCKED, True, columns)
    return Decision(
        Outcome.RETRY, False, columns, outage=refused.blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT)
    )


def _dead(refused: Refused, claim: Claim, columns: dict[str, Any], now: datetime) -> Decision:
    lost = claim.in_doubt_since is not None
    columns |= {
        "state": "reauthorization_required",
        "reason": "lost_in_rotation" if lost else refused.code,
        # It was lost by the attempt whose outcome never came.
        "reason_since": claim.in_doubt_since or now,
        "due_at": None,
        "doubt_resolved": True,
    }
    return Decision(Outcome.LOST if lost else Outcome.DEAD, False, columns)


def _still_dead(refused: Refused, columns: dict[str, Any]) -> Decision:
    """Keep the verdict on a dead grant that was forced."""
    columns |= {"due_at": None, "doubt_resolved": refused.blame is RefusalBlame.USER}
    if refused.blame is RefusalBlame.OPERATOR:
        return Decision(Outcome.BLOCKED, True, columns)
    if refused.blame is RefusalBlame.USER:
        return Decision(Outcome.DEAD, False, columns)
    return Decision(
        Outcome.RETRY, False, columns, outage=refused.blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT)
    )


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
        return Decision(Outcome.IN_DOUBT, False, {"due_at": due_at}) if planned_in_grace else None
    columns = {
        "state": "in_doubt", "reason": "no_answer", "reason_since": claim.in_doubt_since, "due_at": due_at,
        "last_error": "no_answer", "attempts": max(claim.attempts, 1),
    }  # fmt: skip
    return Decision(Outcome.IN_DOUBT, False, columns)


NOTHING_TO_SPEND = Decision(
    Outcome.UNRENEWABLE, False, {"due_at": None, "state": "unrenewable", "reason": "no_refresh_token"}
)
"""No refresh token, and no access token that the provider would take instead."""


def wait_for_key(claim: Claim, now: datetime) -> Decision:
    """Put off a grant whose key is missing.

    The operator puts the key back; nothing is lost.
    """
    columns = {
        "due_at": now + schedule.MAX_BACKOFF, "attempts": claim.attempts + 1, "last_error": "cannot_open",
    }  # fmt: skip
    return Decision(Outcome.UNREADABLE, False, columns)
