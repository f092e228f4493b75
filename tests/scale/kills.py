"""A full sync whose processes are killed at random.

Each kill costs one page at most.

Nothing is compressed here: ticks, pauses and starts of processes take their real time, so the tenant's does too.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs

import psycopg
from rich.console import Console
from rich.table import Table

from emulators.client import Emulation, running
from tests.scale.process import run
from tests.scale.service import BEAT, EMPTIED, REDIS, SCHEDULE, WORKER, Kill, Service
from tests.scale.tenant import ACTIVITY, LIST, find_mistakes, prepare
from tests.support.processes import site
from worker import embedded
from worker.auth0 import PLANS
from worker.auth0.ratelimit.budget import ASSUMED_WORKER_PROCESSES
from worker.auth0.ratelimit.plans import ALL_CALLS
from worker.cli.forecast import user_pages
from worker.vault.db.migrate import migrate

# The millisecond that 250 users share is paged by number, and asked for once more for its end.
CLUSTER_PAGES = 4
# What the tenant takes for an answer. While a burst lasts, a scan would else be over before it can be disturbed.
PAGE_SECONDS = 0.15
# Seconds beyond the limit's own for each page, as a share.
SLACK = 1.1


@dataclass
class Result:
    """What one plan came to.

    Attributes:
        seconds: the full sync's, from its first to its last record in the vault.
        pages: of users that the tenant served during it.
        undisturbed: how many a scan takes that nothing disturbs.
        repeated: of the pages, those that were served once already.
        beside: other calls that the same limit counts: users who logged in meanwhile, and the log where it does.
        limit: seconds that the limit has for each of the pages once and the calls beside, with a full bucket to begin.
        missed: kills that came too late, as the scan was at its end.
        local: seconds for which the budget was each process's own, for want of Redis.
    """

    plan: str
    users: int
    seconds: float = 0.0
    pages: int = 0
    undisturbed: int = 0
    repeated: int = 0
    beside: int = 0
    limit: float = 0.0
    local: float = 0.0
    refused: int = 0
    wrong: int = 0
    missed: int = 0
    kills: list[Kill] = field(default_factory=list)

    @property
    def restarts(self) -> float:
        """Seconds that starting the worker again took."""
        return sum(kill.restart for kill in self.kills if kill.kind == WORKER)

    @property
    def lost(self) -> float:
        """Seconds that the scan lost to kills."""
        return self.restarts + self.local * (1 - 1 / ASSUMED_WORKER_PROCESSES)

    @property
    def kept(self) -> bool:
        """Whether nobody is wrong, and kills cost a page each."""
        again = [kill.again for kill in self.kills]
        return (
            self.wrong == 0
            and self.missed == 0
            and self.refused <= 1
            and sum(again) == self.repeated  # none before the first kill
            and max(again, default=0) <= 1
            and self.pages - self.undisturbed - CLUSTER_PAGES <= len(again)
        )

    @property
    def in_time(self) -> bool:
        """Whether the limit and the kills explain the time."""
        return self.seconds <= SLACK * self.limit + self.lost


def sync_under_kills(folder: Path, plan: str, users: int, kills: int, seed: int) -> Result:
    """Sync at a plan's limits while processes die; then reconcile.

    Args:
        kills: of the worker, of the beat and of Redis, each; one more of Redis loses its data.
    """
    with ExitStack() as stack:
        servers = stack.enter_context(embedded.servers(folder / "servers", durable=True))
        migrate(servers.database_url)
        tenant = stack.enter_context(running())
        prepare(servers, tenant, plan, users)
        tenant.fail_next("/api/v2/users", user_pages(users) * 100, f"delay:{PAGE_SECONDS}")
        here = stack.enter_context(site(servers, tenant, folder, schedule=SCHEDULE, AUTH0_PLAN=plan))
        service = Service(here, folder / "servers", tenant, stack)
        result = Result(plan, users)
        database = stack.enter_context(psycopg.connect(servers.database_url.reveal(), autocommit=True))
        tenant.start_activity(**ACTIVITY)
        service.start()
        moments = _moments(user_pages(users), kills, seed)
        result.kills = _kill(service, tenant, moments, lambda: _took(database) is not None)
        result.missed = len(moments) - len(result.kills)
        while not (took := _took(database)):
            service.restore()
            time.sleep(0.1)
        tenant.stop_activity()
        _count(result, tenant)
        service.stop()
        result.seconds, result.local = took, _local(folder)
        tenant.set_search_lag(0)
        run("settle", tenant, here.environment, plan, time_is_real=True)
        result.refused = sum(group["refused"] for group in tenant.limit_counts()["groups"].values())
        result.wrong = len(find_mistakes(servers, tenant))
    return result


def _moments(pages: int, kills: int, seed: int) -> list[tuple[float, str]]:
    """Draw when, in pages served, and what is killed."""
    chance = random.Random(seed)
    kinds = [WORKER, BEAT, REDIS] * kills + [EMPTIED] * bool(kills)
    chance.shuffle(kinds)
    return list(zip(sorted(chance.uniform(1, 0.9 * pages) for _ in kinds), kinds, strict=True))


def _kill(
    service: Service, tenant: Emulation, moments: Sequence[tuple[float, str]], over: Callable[[], bool]
) -> list[Kill]:
    kills: list[Kill] = []
    served = 0
    for after, kind in moments:
        # Not before the scan has gone on: what a kill costs could not be told from what the next one does.
        while _pages(tenant) < max(int(after), served):
            if over():
                return kills
            service.restore()
            time.sleep(0.05)
        time.sleep(after % 1 / 4)  # in the midst of a page
        kills.append(service.kill(kind))
        served = _pages(tenant) + 1
    return kills


def _pages(tenant: Emulation) -> int:
    served: dict[str, int] = tenant.limit_counts()["endpoints"].get(LIST, {"calls": 0, "refused": 0})
    return served["calls"] - served["refused"]


def _took(database: psycopg.Connection[tuple[object, ...]]) -> float | None:
    """Return the full sync's seconds, None while it is running."""
    row = database.execute(
        "SELECT extract(epoch FROM finished_at - started_at)::float FROM sync_runs WHERE scope = 'all' AND complete"
    ).fetchone()
    return None if row is None else float(str(row[0]))


def _count(result: Result, tenant: Emulation) -> None:
    """Count pages, and attribute the gaps between them."""
    plan = PLANS[result.plan]
    bucket = plan.limit_name("read_users")
    groups = tenant.limit_counts()["groups"]
    counted = groups.values() if bucket == ALL_CALLS else [groups[bucket]]
    served = [
        (call["time"], call["query"])
        for call in tenant.call_log("/api/v2/users")
        # The sweep looks for identities by the same endpoint: who seems unlinked may be another user's.
        if call["template"] == "/api/v2/users"
        and call["status"] == 200
        and "identities" not in _asked(call["query"])
    ]
    result.pages = len(served)
    result.undisturbed = user_pages(max(result.users, tenant.count_alive()))
    result.beside = sum(group["calls"] - group["refused"] for group in counted) - result.pages
    limit = plan.limits[bucket]
    _attribute(result, served)
    result.limit = max(0.0, result.pages - result.repeated + result.beside - limit.burst) / limit.per_second


def _asked(query: str) -> str:
    """The search itself."""
    return "".join(parse_qs(query).get("q", []))


def _attribute(result: Result, served: Sequence[tuple[float, str]]) -> None:
    """Attribute repeated pages and gaps to the kill before them."""
    asked: Counter[str] = Counter()
    for at, query in served:
        before = [kill for kill in result.kills if kill.at <= at]
        if asked[query]:
            result.repeated += 1
            if before:
                before[-1].again += 1
        asked[query] += 1
    ends = [kill.at for kill in result.kills[1:]] + [served[-1][0]]
    for kill, end in zip(result.kills, ends, strict=False):
        later = [(a, b) for (a, _), (b, _) in pairwise(served) if kill.at <= b]
        within = [pair for pair in later if pair[1] <= end] or later[:1]
        kill.gap = max((b - a for a, b in within), default=0.0)


_BUDGET = re.compile(r'"event": "rate_limit\.sharing_(lost|restored)".*"timestamp": "([^"]+)"')


def _local(folder: Path) -> float:
    """Sum the seconds for which budgets were each process's own."""
    total = 0.0
    for log in folder.glob(f"{WORKER}-*.log"):
        began: datetime | None = None
        for what, when in _BUDGET.findall(log.read_text(encoding="utf-8", errors="replace")):
            at = datetime.fromisoformat(when)
            if what == "lost":
                began = began or at
            elif began:
                total, began = total + (at - began).total_seconds(), None
    return total


def tables(result: Result) -> list[Table]:
    """The result, for people."""
    whole, kills = Table(box=None), Table(box=None)
    rows = {
        "plan": result.plan, "users": f"{result.users:,}", "pages": f"{result.pages:,}",
        "undisturbed": f"{result.undisturbed:,}", "repeated": result.repeated, "calls beside": f"{result.beside:,}",
        "429s": result.refused, "wrong": result.wrong, "seconds": f"{result.seconds:.1f}",
        "limit allows": f"{result.limit:.1f}", "restarts": f"{result.restarts:.1f}",
        "without Redis": f"{result.local:.1f}",
        "ratio": f"{(result.seconds - result.lost) / result.limit:.2f}" if result.limit else "",
    }  # fmt: skip
    for name in rows:
        whole.add_column(name, justify="right")
    whole.add_row(*map(str, rows.values()))
    for name in ("killed", "times", "pages again", "restart, s", "longest time between two pages, s"):
        kills.add_column(name, justify="left" if name == "killed" else "right")
    for kind in dict.fromkeys(kill.kind for kill in result.kills):
        these = [kill for kill in result.kills if kill.kind == kind]
        restarts, gaps = (
            [f"{each:.1f}" for each in column]
            for column in zip(*((k.restart, k.gap) for k in these), strict=True)
        )
        kills.add_row(
            kind,
            str(len(these)),
            " ".join(str(kill.again) for kill in these),
            " ".join(restarts),
            " ".join(gaps),
        )
    return [whole, kills]


def main(plans: Sequence[str], users: int, kills: int, seed: int) -> int:
    """Run each plan; 0 if correct and in time."""
    fine = True
    for plan in plans:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            result = sync_under_kills(Path(folder), plan, users, kills, seed)
        Console(width=200).print(*tables(result))
        for holds, otherwise in (
            (result.kept, "a kill cost too much, or came too late"),
            (result.in_time, "it took too long"),
        ):
            if not holds:
                print(f"{plan}: {otherwise}", flush=True)
        fine = fine and result.kept and result.in_time
    return 0 if fine else 1
