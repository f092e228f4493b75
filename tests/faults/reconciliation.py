"""What the providers issued, compared with what the vault has.

Says what was lost, spent twice or served too late.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from emulators.client import digest
from emulators.faults import CARRIED_OUT
from tests.faults.stage import Row, Stage

FORBIDDEN = (
    "lost_outside", "silent_losses", "double_spends", "expired_served", "older_pair_kept", "not_quiet",
)  # fmt: skip


@dataclass
class Result:
    """A run's result; the numbers in ``FORBIDDEN`` must be zero."""

    grants: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    renewals: int = 0
    lost_inside_reported: int = 0
    lost_outside: int = 0
    silent_losses: int = 0
    double_spends: int = 0
    retries_in_doubt: int = 0
    forced_when_dead: int = 0
    reads: int = 0
    reads_refused: dict[str, int] = field(default_factory=dict)
    expired_served: int = 0
    older_pair_kept: int = 0
    not_quiet: int = 0
    window_ms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    seed: int = 0
    examples: list[str] = field(default_factory=list)
    reported: set[tuple[int, str]] = field(default_factory=set)

    @property
    def clean(self) -> bool:
        """Whether nothing happened that must not."""
        return not any(getattr(self, name) for name in FORBIDDEN)

    def as_json(self) -> str:
        """The whole as JSON."""
        return json.dumps(asdict(self) | {"reported": len(self.reported)}, indent=2)


def judge(stage: Stage, row: Row) -> str:
    """Judge one grant: held, lost inside or outside, silent, older."""
    ledger = stage.emulation.ledger(row["user_id"], row["connection"])
    pairs = {pair["refresh"]: pair for pair in ledger}
    held = pairs.get(digest(stage.refresh_token(row) or ""))
    newest = max((int(pair["grant"][1:]) for pair in ledger), default=0)
    if held is None:
        return "silent"
    if row["state"] == "reauthorization_required":
        return (
            "lost inside"
            if row["reason"] == "lost_in_rotation" and _in_window(held, ledger)
            else "lost outside"
        )
    if not held["live"]:
        return "silent"
    return "held" if int(held["grant"][1:]) == newest else "older"


def _in_window(held: Row, ledger: Sequence[Row]) -> bool:
    """Whether the loss fell into the window between two commits.

    The held token was spent without us, or its family was revoked by a retry in doubt.
    """
    again = any(pair["presented"] > 1 for pair in ledger if pair["grant"] == held["grant"])
    return bool(held["spent"] or (held["revoked"] and again))


def log_in_dead_users(stage: Stage, result: Result) -> None:
    """Judge the dead grants, and log their users in again."""
    dead = stage.sql("SELECT * FROM grants WHERE state = 'reauthorization_required' LIMIT 200")
    for row in dead:
        note(result, row, judge(stage, row))
        stage.emulation.login(row["user_id"])
        stage.send(("worker.sync_user", "sync", {"user_id": row["user_id"]}))


def note(result: Result, row: Row, verdict: str) -> None:
    """Count a verdict."""
    counted = {
        "lost inside": "lost_inside_reported", "lost outside": "lost_outside", "silent": "silent_losses",
        "older": "older_pair_kept",
    }.get(verdict)  # fmt: skip
    case = (row["id"], str(row["reason_since"]))
    if counted is None or case in result.reported:
        return  # a loss is reported once, however long its user takes to come back
    result.reported.add(case)
    setattr(result, counted, getattr(result, counted) + 1)
    if counted in FORBIDDEN and len(result.examples) < 20:
        seen = {
            name: str(row[name]) for name in ("user_id", "state", "reason", "reason_since", "refresh_version")
        }
        result.examples.append(f"{verdict}: {seen}")


def reconcile(stage: Stage, result: Result) -> None:
    """Judge every grant, every call and every read."""
    for row in stage.sql("SELECT * FROM grants ORDER BY id"):
        note(result, row, judge(stage, row))
    _calls(stage, result)
    _reads(stage, result)


def _calls(stage: Stage, result: Result) -> None:
    """Count spends and double spends.

    A double spend presents a token that was carried out already, by a claim that was not in doubt.
    """
    spent: defaultdict[str, int] = defaultdict(int)
    for call in stage.emulation.call_log("/idp/"):
        if not call["token"]:
            continue
        if spent[call["token"]] and "/google/" not in call["path"]:
            if call["note"] == "in doubt":
                result.retries_in_doubt += 1
            elif call["note"] == "forced":
                result.forced_when_dead += 1
            else:
                result.double_spends += 1
                result.examples.append(f"double spend: {call}")
        name = call["fault"]
        took = call["error"] is None and (name in CARRIED_OUT or name == "status" or call["status"] == 200)
        spent[call["token"]] += took
        result.renewals += took


def _reads(stage: Stage, result: Result) -> None:
    refused: Counter[str] = Counter()
    for path in stage.folder.glob("reads-*.jsonl"):
        for line in map(json.loads, filter(_whole, path.read_text().splitlines())):
            result.reads += 1
            if "refused" in line:
                refused[line["refused"]] += 1
            elif line["expired"]:
                result.expired_served += 1
                result.examples.append(f"expired: {line}")
    result.reads_refused = dict(refused)


def _whole(line: str) -> bool:
    return line.endswith("}")


def measure(stage: Stage, result: Result) -> None:
    """Measure undisturbed renewals from the provider's commit to ours."""
    waits: list[float] = []
    for path in stage.control.glob("commits.*"):
        for line in map(json.loads, path.read_text().splitlines()[-500:]):
            for pair in stage.emulation.ledger(line["user"], line["connection"]):
                if pair["access"] == line["access"]:
                    waits.append((line["at"] - pair["issued_at"]) * 1000)
    if len(waits) > 1:
        cuts = statistics.quantiles(waits, n=100, method="inclusive")
        result.window_ms = {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(waits), 1)}
        result.window_ms["renewals"] = len(waits)
