"""What was issued and recorded, compared with what the vault has.

Says what was lost, spent twice or served too late.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from emulators.client import digest
from tests.faults import accusations
from tests.faults.evidence import Evidence, Key, gather, key_of
from tests.faults.output import list_failures
from tests.faults.stage import Row, Stage
from worker.renewal.http import CALL_SECONDS

FORBIDDEN = (
    "losses_without_fault", "lost_outside", "deaths_not_told", "silent_losses", "double_spends", "unclaimed_spends",
    "claims_taken_early", "expired_served", "older_pairs_kept", "wrong_access_tokens", "people_missing", "rows_extra",
    "failures_logged", "gaps_in_records", "not_quiet",
)  # fmt: skip
MAX_EXAMPLES = 5  # of each kind


@dataclass
class Result:
    """A run's result; the numbers in ``FORBIDDEN`` must be zero."""

    grants: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    renewals: int = 0
    lost_inside_reported: int = 0
    lost_to_slowness: int = 0
    losses_without_fault: int = 0
    lost_outside: int = 0
    deaths_not_told: int = 0
    silent_losses: int = 0
    double_spends: int = 0
    unclaimed_spends: int = 0
    claims_taken_early: int = 0
    retries_in_doubt: int = 0
    reads: int = 0
    reads_refused: dict[str, int] = field(default_factory=dict)
    expired_served: int = 0
    older_pairs_kept: int = 0
    wrong_access_tokens: int = 0
    people_missing: int = 0
    rows_extra: int = 0
    failures_logged: int = 0
    gaps_in_records: int = 0
    not_quiet: int = 0
    window_ms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    seed: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing happened that must not."""
        return not self.accused

    @property
    def accused(self) -> set[str]:
        """What happened that must not, by its names in ``FORBIDDEN``."""
        return {name for name in FORBIDDEN if getattr(self, name)}

    def accuse(self, name: str, cases: Collection[str]) -> None:
        """Count cases of what must not happen, and keep some."""
        setattr(self, name, getattr(self, name) + len(cases))
        self.examples += [f"{name.replace('_', ' ')}: {case}" for case in list(cases)[:MAX_EXAMPLES]]

    def as_json(self) -> str:
        """The whole as JSON."""
        return json.dumps(asdict(self), indent=2)


def log_in_dead_users(stage: Stage) -> None:
    """Let the users of dead grants log in again."""
    for row in stage.sql("SELECT user_id FROM grants WHERE state = 'reauthorization_required' LIMIT 200"):
        stage.emulation.login(row["user_id"])
        stage.send(("worker.sync_user", "sync", {"user_id": row["user_id"]}))


def reconcile(stage: Stage, result: Result) -> None:
    """Judge every grant, call, claim, read and log line."""
    found = gather(stage)
    _judge_calls(stage, found, result)
    _judge_deaths(stage, found, result)
    _judge_rows(stage, found, result)
    _judge_reads(stage, found, result)
    result.accuse("failures_logged", list_failures(stage.folder))
    result.accuse("gaps_in_records", found.gaps)


def _judge_calls(stage: Stage, found: Evidence, result: Result) -> None:
    result.renewals = sum(call.spends for call in found.calls)
    doubled, result.retries_in_doubt = accusations.double_spends(found)
    result.accuse("double_spends", doubled)
    result.accuse("unclaimed_spends", list(accusations.unclaimed_spends(found)))
    result.accuse("claims_taken_early", accusations.claims_taken_early(found))
    unexplained, result.lost_to_slowness = accusations.losses_without_fault(found, CALL_SECONDS / stage.scale)
    result.accuse("losses_without_fault", unexplained)


def _judge_deaths(stage: Stage, found: Evidence, result: Result) -> None:
    result.lost_inside_reported = sum(death.reason == "lost_in_rotation" for death in found.deaths)
    result.accuse("lost_outside", accusations.deaths_outside(found))
    told = Counter(
        key_of(row)
        for row in stage.sql(
            "SELECT connection, provider_user_id FROM outbox"
            " WHERE kind IN ('grant.lost_in_rotation', 'grant.reauthorization_required')"
        )
    )
    news = Counter(death.key for death in found.deaths if death.is_news)
    untold = [
        f"{key}: {count} deaths, {told[key]} events" for key, count in news.items() if count > told[key]
    ]
    result.accuse("deaths_not_told", untold)


def _judge_rows(stage: Stage, found: Evidence, result: Result) -> None:
    """Compare the rows with people, and both tokens with the ledger."""
    rows = stage.sql("SELECT * FROM grants ORDER BY id")
    held = Counter((row["user_id"], row["connection"]) for row in rows if row["state"] != "erased")
    result.grants = len(rows)
    people = Counter(stage.people)
    result.accuse("people_missing", [str(who) for who in people - held])
    result.accuse("rows_extra", [str(who) for who in held - people])
    newest: dict[Key, str] = {
        (family["connection"], family["subject"]): name for name, family in found.families.items()
    }
    for row in rows:
        for name in _judge_pair(stage, found, row, newest):
            seen = {each: str(row[each]) for each in ("user_id", "state", "reason", "refresh_version")}
            result.accuse(name, [str(seen)])


def _judge_pair(stage: Stage, found: Evidence, row: Row, newest: dict[Key, str]) -> list[str]:
    """Name what is wrong with a row's two tokens."""
    refresh = found.tokens.get(stage.digest(row))
    if refresh is None:
        return ["silent_losses"]
    if row["state"] == "reauthorization_required":
        return []  # as its death was judged
    if refresh["spent_at"] is not None or refresh["revoked"]:
        return ["silent_losses"]
    if newest[key_of(row)] != refresh["family"]:
        return ["older_pairs_kept"]
    access = digest(stage.access_token(row) or "")
    pairs = stage.emulation.ledger(row["user_id"], row["connection"])
    issued = {
        pair["access"]
        for pair in pairs
        if pair["refresh"] == refresh["digest"] and not pair["access_revoked"]
    }
    return [] if access in issued else ["wrong_access_tokens"]


def _judge_reads(stage: Stage, found: Evidence, result: Result) -> None:
    """Count the tokens that had ended when they were asked for.

    A statement that waits while the clock is moved still sees the time of its beginning.
    """
    moves = list(zip(found.jumps, found.settled, strict=True))
    refused: Counter[str] = Counter()
    for path in stage.folder.glob("reads-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            result.reads += 1
            if "refused" in line:
                refused[line["refused"]] += 1
            elif line["expired"] and not any(
                line["began"] <= settled and moved <= line["ended"] for moved, settled in moves
            ):
                result.accuse("expired_served", [str(line)])
    result.reads_refused = dict(refused)


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
