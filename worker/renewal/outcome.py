"""What a renewal comes to, and how a provider's refusal turns into the grant's next state. Pure but for jitter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from worker.providers import Provider, RefusalBlame, Refused
from worker.vault import schedule
from worker.vault.claims import Claim

# An unknown refusal is tried this often before the operator is called.
MAX_UNKNOWN_REFUSALS = 5
# A refresh token whose last use is in doubt, at a provider that would revoke the family on reuse, is tried again
# only when the access token still being served has this much life left: until then, nothing is won by trying.
IN_DOUBT_RETRY_MARGIN = timedelta(seconds=45)


class Outcome(StrEnum):
    """How one renewal ended; what counts and status show."""

    RENEWED = "renewed"
    FRESH = "fresh"
    """Nothing to do: somebody renewed it meanwhile, or it has life enough."""
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
    """Something unforeseen; the log has it, and the grant is in doubt once its claim has run out."""
    SPOOLED = "spooled"
    """Postgres could not take the new pair: it is kept on disk, and stored when Postgres is back."""
    UNREADABLE = "unreadable"
    """The stored refresh token does not open: a key is missing."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write when a claim ends without a pair.

    Attributes:
        outcome: for the counts.
        opens_circuit: whether the connection's circuit opens; where the refusal might be this grant's own
            trouble, only once another grant is refused as well.
        columns: keyword arguments of ``claims.release``.
        outage: the provider did not answer for itself, or asked to be left alone.
    """

    outcome: Outcome
    opens_circuit: bool
    columns: dict[str, Any]
    outage: bool = False


def decide(refused: Refused, claim: Claim, provider: Provider, *, now: datetime, jitter: float) -> Decision:
    """Turn a refusal into the grant's next state. Only the provider's verdict on this grant marks it dead."""
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
        # The grant is as good as before. It moves on a little so that a probe of the connection picks another
        # grant: should only this one be refused so, it must not keep all others blocked.
        return Decision(Outcome.BLOCKED, True, columns)
    return Decision(
        Outcome.RETRY, False, columns, outage=refused.blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT)
    )


def _dead(refused: Refused, claim: Claim, columns: dict[str, Any], now: datetime) -> Decision:
    lost = claim.in_doubt_since is not None
    columns |= {
        "state": "reauthorization_required",
        "reason": "lost_in_rotation" if lost else refused.code,
        # The time a lost grant was lost is that of the attempt whose outcome never came.
        "reason_since": claim.in_doubt_since or now,
        "due_at": None,
        "settled": True,
    }
    return Decision(Outcome.LOST if lost else Outcome.DEAD, False, columns)


def _still_dead(refused: Refused, columns: dict[str, Any]) -> Decision:
    """A dead grant that was forced in vain: the verdict that killed it stands, with its reason and its time."""
    columns |= {"due_at": None, "settled": refused.blame is RefusalBlame.USER}
    if refused.blame is RefusalBlame.OPERATOR:
        return Decision(Outcome.BLOCKED, True, columns)
    if refused.blame is RefusalBlame.USER:
        return Decision(Outcome.DEAD, False, columns)
    return Decision(
        Outcome.RETRY, False, columns, outage=refused.blame in (RefusalBlame.NOBODY, RefusalBlame.IN_DOUBT)
    )


def doubt_due_at(claim: Claim, provider: Provider, *, now: datetime, retry_at: datetime) -> datetime:
    """When to try a refresh token again whose last use is in doubt.

    Where the provider does not rotate, or its grace lasts, a retry is safe and made at once. Elsewhere it can
    make the provider revoke the whole family, the access token still being served included, while a retry of a
    request that never arrived is as good later as now: so the user is served first.
    """
    in_doubt_for = (
        now - (claim.in_doubt_since or claim.claimed_at)
    ).total_seconds()  # a grace may be infinite
    safe = not provider.rotates or (provider.grace is not None and in_doubt_for < provider.grace)
    if safe:
        return now if claim.in_doubt_since is None else retry_at
    if claim.expires_at is None:
        return retry_at
    last_moment = IN_DOUBT_RETRY_MARGIN if claim.life is None else min(IN_DOUBT_RETRY_MARGIN, claim.life / 4)
    # The refresh token may end first, of age or idleness: one that never arrived is of no use after that.
    idle = claim.obtained_at + provider.idle_life if claim.obtained_at and provider.idle_life else None
    ends = [end for end in (claim.refresh_expires_at, idle) if end is not None and end > now]
    last = min([claim.expires_at, *ends])
    return max(retry_at, last - last_moment)


def wait_in_doubt(claim: Claim, provider: Provider, *, now: datetime) -> Decision | None:
    """What to do with a claim whose predecessor ran out: its owner died, or its answer may still be stored.

    Returns:
        A release that puts the next use of the refresh token off, or None where it may be used now.
    """
    # The verdict on a dead one stands.
    if claim.in_doubt_since is None or claim.state not in ("active", "in_doubt"):
        return None
    due_at = doubt_due_at(claim, provider, now=now, retry_at=now)
    if due_at <= now:
        return None
    if claim.state == "in_doubt":
        # It has waited as long as was wise; but a retry that was meant for the grace may come too late for it. Where
        # nothing has failed yet, the token itself was never presented, and only a predecessor's reuse is feared.
        meant_for_grace = provider.grace and claim.attempts
        return Decision(Outcome.IN_DOUBT, False, {"due_at": due_at}) if meant_for_grace else None
    columns = {
        "state": "in_doubt", "reason": "no_answer", "reason_since": claim.in_doubt_since, "due_at": due_at,
        "last_error": "no_answer", "attempts": max(claim.attempts, 1),
    }  # fmt: skip
    return Decision(Outcome.IN_DOUBT, False, columns)


NOTHING_TO_SPEND = Decision(
    Outcome.UNRENEWABLE, False, {"due_at": None, "state": "unrenewable", "reason": "no_refresh_token"}
)
"""Neither a refresh token nor, where the provider would take it, an access token is there."""


def unreadable(claim: Claim, now: datetime) -> Decision:
    """What to write where the stored token does not open: the operator puts a key back, nothing is lost."""
    columns = {
        "due_at": now + schedule.BACKOFF_CAP, "attempts": claim.attempts + 1, "last_error": "cannot_open",
    }  # fmt: skip
    return Decision(Outcome.UNREADABLE, False, columns)
