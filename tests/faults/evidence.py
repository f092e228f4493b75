"""What the providers, the database and the journal have recorded of a run.

All times are the machine's, in seconds since the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf

from emulators.client import digest
from emulators.faults import CARRIED_OUT
from tests.faults import journal
from tests.faults.stage import Row, Stage

Key = tuple[str, str]  # (connection, the user's id at the provider)


@dataclass(frozen=True, slots=True)
class Call:
    """One token request, as the provider recorded it.

    Attributes:
        note: names it in the journal.
        left: when its answer was sent, or when the client went away.
        spends: whether the token was taken; a retry within the grace is one too.
    """

    note: str
    key: Key
    token: str
    arrived: float
    left: float
    fault: str | None
    spends: bool


@dataclass(slots=True)
class ClaimPeriod:
    """One claim, as the database committed it.

    Attributes:
        until: its deadline, wherever the database's clock is moved meanwhile.
        ended: when the row had it no more: released, or replaced by the next claim.
        overtaken: whether the next claim was made before its deadline.
        replaced: whether it ended as a newer pair was stored: that of its call, or a login's.
    """

    owner: str
    version: int
    made: float
    until: float
    ended: float = inf
    overtaken: bool = False
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """One grant that became dead, with the token it held."""

    key: Key
    user_id: str
    at: float
    reason: str
    token: str
    is_news: bool


@dataclass(slots=True)
class Evidence:
    """All that was recorded.

    Attributes:
        steps: of each call by its note: a step, and when it was reached.
        pids: the process of each call by its note.
        kills, pauses: of processes, by id; a pause has two ends.
        jumps, settled: when the clock was moved, and when every statement saw that.
        gaps: what is missing from the records.
    """

    calls: list[Call] = field(default_factory=list)
    claims: dict[Key, list[ClaimPeriod]] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    kills: dict[int, float] = field(default_factory=dict)
    pauses: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    jumps: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    tokens: dict[str, Row] = field(default_factory=dict)
    families: dict[str, Row] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def by_token(self) -> dict[str, list[Call]]:
        """Sort the calls by the token that was presented."""
        found: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.token].append(call)
        return found


def key_of(row: Row) -> Key:
    """Name a row's grant as the ledger does.

    Auth0 puts a custom connection's name before the user's id at the provider.
    """
    return row["connection"], row["provider_user_id"].rpartition("|")[2]


def gather(stage: Stage) -> Evidence:
    """Gather the records of a run that has ended."""
    found = Evidence()
    _read_journal(stage, found)
    _read_ledger(stage, found)
    _read_claims(stage, found)
    _find_gaps(stage, found)
    return found


def _read_journal(stage: Stage, found: Evidence) -> None:
    pausing: dict[int, float] = {}
    for line in sorted(journal.read(stage.journal_folder), key=lambda line: float(line["at"])):
        match line:
            case {"what": "killed", "target": pid, "at": at}:
                found.kills[pid] = at
            case {"what": "paused", "target": pid, "at": at}:
                pausing[pid] = at
            case {"what": "resumed", "target": pid, "at": at}:
                found.pauses.setdefault(pid, []).append((pausing.pop(pid, at), at))
            case {"what": "clock moved", "at": at}:
                found.jumps.append(at)
            case {"what": "clock settled", "at": at}:
                found.settled.append(at)
            case {"what": step, "call": call, "pid": pid, "at": at}:
                found.steps.setdefault(call, {}).setdefault(step, at)
                found.pids[call] = pid
    for pid, at in pausing.items():
        found.pauses.setdefault(pid, []).append((at, inf))


def _read_ledger(stage: Stage, found: Evidence) -> None:
    for family in stage.emulation.families():
        found.families[family["grant"]] = family
        for token in family["refresh"]:
            found.tokens[token["digest"]] = token | {"family": family["grant"]}
    for entry in stage.emulation.call_log("/idp/"):
        if not entry["token"] or not entry["grant"]:
            continue
        family = found.families[entry["grant"]]
        found.calls.append(
            Call(
                note=entry["note"],
                key=(family["connection"], family["subject"]),
                token=entry["token"],
                arrived=entry["arrived"],
                left=entry["left"] or inf,
                fault=entry["fault"],
                spends=_spends(entry),
            )
        )


def _spends(entry: Row) -> bool:
    fault = entry["fault"]
    return entry["error"] is None and (fault in CARRIED_OUT or fault == "status" or entry["status"] == 200)


def _read_claims(stage: Stage, found: Evidence) -> None:
    claims: defaultdict[Key, list[ClaimPeriod]] = defaultdict(list)
    told: dict[Key, bool] = {}
    for row in stage.sql("SELECT * FROM claim_log ORDER BY n"):
        key = key_of(row)
        _note_claim(row, claims[key])
        if row["state"] == "active":
            told[key] = False
        if row["state"] == "reauthorization_required" != row["old_state"]:
            token = digest(stage.refresh_token(row | {"refresh_version": row["version"]}) or "")
            is_news = not told.get(key)
            found.deaths.append(Death(key, row["user_id"], row["at"], row["reason"], token, is_news))
            told[key] = True
    found.claims = dict(claims)


def _note_claim(row: Row, claims: list[ClaimPeriod]) -> None:
    if row["owner"] == row["old_owner"]:
        return
    if row["old_owner"] is not None and claims:
        claims[-1].ended = row["at"]
        claims[-1].replaced = row["version"] > row["old_version"]
        claims[-1].overtaken = row["owner"] is not None and row["clock"] < row["old_until"]
    if row["owner"] is not None:
        claims.append(ClaimPeriod(str(row["owner"]), row["version"], row["at"], row["at"] + row["seconds"]))


def _find_gaps(stage: Stage, found: Evidence) -> None:
    """Find calls that one of the records has lost."""
    kept, counted = len(stage.emulation.call_log()), sum(stage.emulation.calls().values())
    if kept < counted:
        found.gaps.append(f"the providers' log has {kept} of {counted} calls")
    for call in found.calls:
        if "sending" not in found.steps.get(call.note, {}):
            found.gaps.append(f"the journal has no beginning of {call}")
        if call.token not in found.tokens:
            found.gaps.append(f"the ledger has no token of {call}")
    for call_note, steps in found.steps.items():
        if "ended" not in steps and found.pids[call_note] not in found.kills:
            found.gaps.append(f"the journal has no end of call {call_note} in a process that nobody killed")
