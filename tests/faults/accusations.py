"""What the records of a run say that must not have happened.

A loss is excused by an injected fault alone, which overlaps the call that lost the token, in the process that made it.
A double spend is judged by the providers' ledger and by the claims that the database committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.faults.evidence import Call, ClaimPeriod, Death, Evidence

# At these faults the provider takes the token, and its answer does not arrive.
LOST_ANSWERS = {"cut", "reset_after", "status"}
# A delay is one where the call had ended before the provider's answer, which came after most of the call's time.
NEARLY = 0.9
# The provider's part of a call that took its whole time, where the machine was too busy to serve it.
MOST = 0.5
# A late answer may be stored while whoever took its claim over sends: it asked for its claim just before.
OVERTAKEN_SECONDS = 1.0
ACCESS_ONLY = ("google",)  # connections whose refresh token is not spent


def losses_without_fault(found: Evidence, call_seconds: float) -> tuple[list[str], int]:
    """Find losses that no injected fault explains.

    Returns:
        The losses; and how many more there are by calls for which the machine was too slow.
    """
    by_token, unexplained, slow = found.by_token(), [], 0
    for death in found.deaths:
        calls = _suspects(found, death, by_token)
        if death.reason != "lost_in_rotation" or any(_excuse(found, call, call_seconds) for call in calls):
            continue
        if any(_was_too_slow(found, call, call_seconds) for call in calls):
            slow += 1
        else:
            unexplained.append(f"{death} {[_told(found, call) for call in calls]}")
    return unexplained, slow


def deaths_outside(found: Evidence) -> list[str]:
    """Find deaths for another reason, and of living tokens."""
    return [
        str(death)
        for death in found.deaths
        if death.reason != "lost_in_rotation" or not _is_gone(found, death.token)
    ]


def _is_gone(found: Evidence, token: str) -> bool:
    known = found.tokens.get(token)
    return known is not None and (known["spent_at"] is not None or known["revoked"])


def _suspects(found: Evidence, death: Death, by_token: dict[str, list[Call]]) -> list[Call]:
    """Find the calls that may have lost a dead grant's token.

    The one that spent it; where it was revoked instead, those that spent a token which came back.
    """
    spent = [call for call in by_token.get(death.token, []) if call.spends][:1]
    if spent or death.token not in found.tokens:
        return spent
    family = found.families[found.tokens[death.token]["family"]]
    again = [token["digest"] for token in family["refresh"] if len(token["presented_at"]) > 1]
    return [
        call for token in again for call in by_token.get(token, []) if call.spends and call.arrived < death.at
    ]


def _excuse(found: Evidence, call: Call, call_seconds: float) -> str | None:
    """Name the injected fault that overlaps a call, if any."""
    began, ended = call.arrived, _safe_at(found, call)
    pid = found.pids.get(call.note, 0)
    if call.fault in LOST_ANSWERS:
        return call.fault
    if call.fault == "delay" and call.left - call.arrived > NEARLY * call_seconds:
        return "answer too late"
    steps = found.steps.get(call.note, {})
    killed = found.kills.get(pid)
    if killed is not None and steps.get("sending", began) <= killed <= ended:
        return "killed"
    if any(start <= ended and began <= end for start, end in found.pauses.get(pid, [])):
        return "paused"
    if any(began <= at <= steps.get("ended", call.left) for at in found.jumps):
        return "clock moved"
    return None


def _was_too_slow(found: Evidence, call: Call, call_seconds: float) -> bool:
    """Whether a call took its whole time, and the provider's part most of it.

    A machine with too much other work does that, as an injected delay would. An answer that left in time excuses
    nothing.
    """
    steps = found.steps.get(call.note, {})
    if "sending" not in steps or "answered" not in steps:
        return False
    sent, over = steps["sending"], steps["answered"]
    return over - sent >= call_seconds and call.left - sent > MOST * call_seconds


def _safe_at(found: Evidence, call: Call) -> float:
    """When an answer was on disk or committed, or its attempt over."""
    steps = found.steps.get(call.note, {})
    reached = [steps[step] for step in ("spooled", "committed", "ended") if step in steps]
    return min(reached, default=float("inf"))


def _told(found: Evidence, call: Call) -> str:
    steps = {step: round(at - call.arrived, 3) for step, at in found.steps.get(call.note, {}).items()}
    return f"{call} {steps} process {found.pids.get(call.note)}"


def double_spends(found: Evidence) -> tuple[list[str], int]:
    """Find tokens that were presented while they were being spent.

    Returns:
        The double spends; and how many tokens came back after the first call and its claim had ended.
    """
    wrong, retries = [], 0
    for calls in found.by_token().values():
        if calls[0].key[0] in ACCESS_ONLY:
            continue
        claims = found.claims.get(calls[0].key, [])
        for number, again in enumerate(calls):
            spent = [call for call in calls[:number] if call.spends]
            retries += bool(spent)
            # Where the clock that claims end by was moved in between, they ended early by that.
            for first in spent:
                why = None if _moved(found, first.arrived, again.arrived) else _overlaps(first, again, claims)
                if why:
                    wrong.append(f"{why}: {_told(found, first)}; {_told(found, again)}")
    return wrong, retries


def _overlaps(first: Call, again: Call, claims: Sequence[ClaimPeriod]) -> str | None:
    held, holds = standing(claims, first.arrived), standing(claims, again.arrived)
    if again.arrived < first.left:
        return "presented while the first call was being answered"
    if held is not None and held is holds:
        return "presented twice under one claim"
    if held is not None and held.overtaken and again.arrived < held.until:
        return "presented while another's claim stood"
    return None


def standing(claims: Sequence[ClaimPeriod], at: float) -> ClaimPeriod | None:
    """Find the claim that a row had at a time."""
    return next((claim for claim in claims if claim.made <= at < claim.ended), None)


def unclaimed_spends(found: Evidence) -> Iterator[str]:
    """Find tokens that were presented without a claim.

    Left out are calls that had been given up before the provider read them, calls on whose way a login's pair took the
    token's place, and retries whose claim had just been ended by the first call's late answer.
    """
    for call in found.calls:
        claims = found.claims.get(call.key, [])
        claim = standing(claims, call.arrived)
        if claim is not None and call.arrived <= claim.until:
            continue
        steps = found.steps.get(call.note, {})
        if steps.get("answered", call.arrived) < call.arrived:
            continue
        made = [each for each in claims if each.made <= call.arrived]
        if made and made[-1].replaced and steps.get("sending", call.arrived) < made[-1].ended:
            continue
        is_retry = len(made) > 1 and made[-1].version == made[-2].version
        if is_retry and call.arrived - made[-1].ended < OVERTAKEN_SECONDS:
            continue
        yield f"{_told(found, call)} {made[-2:]}"


def claims_taken_early(found: Evidence) -> list[str]:
    """Find claims that were taken over before their deadline."""
    return [f"{key} {claim}" for key, claims in found.claims.items() for claim in claims if claim.overtaken]


def _moved(found: Evidence, began: float, ended: float) -> bool:
    return any(began <= at <= ended for at in found.jumps)
