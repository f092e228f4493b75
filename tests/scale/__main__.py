"""``make scale``: sync 100,000 changing users at each plan's limits.

See docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emulators.client import Emulation, running
from tests.scale import kills
from tests.scale.kills import CLUSTER_PAGES
from tests.scale.process import run
from tests.scale.tenant import ACTIVITY, LIST, find_mistakes, prepare
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from worker import embedded
from worker.auth0 import PLANS
from worker.auth0.ratelimit.plans import ALL_CALLS
from worker.vault.db.migrate import migrate

# An export takes so many seconds of the tenant's clock.
EXPORT = 600.0
# Beyond the limit's own time and each page once, as a share; and what a sync takes to begin, and after one 429, in seconds.
SLACK = 1.1
START_SECONDS = 2.0


@dataclass(slots=True)
class Outcome:
    """What one plan came to."""

    plan: str
    users: int
    seconds: float
    allowed: float
    refused: int
    calls: int
    wrong: int
    hour_calls: int
    hour_logins: int
    scan_calls: int
    reconciling_calls: int

    @property
    def clean(self) -> bool:
        """Whether it is as it should be."""
        in_time = self.seconds <= SLACK * self.allowed + START_SECONDS
        fewest = self.scan_calls / 4
        return (
            self.wrong == 0 and self.refused <= 1 and in_time and self.calls <= SLACK * fewest + CLUSTER_PAGES
        )


@contextmanager
def stage() -> Iterator[tuple[embedded.Servers, Emulation, dict[str, str]]]:
    """Servers, an emulated tenant, and a sync process's environment."""
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        running() as tenant,
        embedded.servers(Path(folder), durable=False) as servers,
    ):
        migrate(servers.database_url)
        config = Path(folder) / "vault.toml"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AUTH0_", "VAULT_"))
        } | {
            "DATABASE_URL": servers.database_url.reveal(), "REDIS_URL": servers.redis_url.reveal(),
            "VAULT_ACCESS_KEYS": ACCESS_KEY.reveal(), "VAULT_REFRESH_KEYS": REFRESH_KEY.reveal(),
            "AUTH0_DOMAIN": tenant.base_url, "AUTH0_CLIENT_ID": tenant.client_id,
            "AUTH0_CLIENT_SECRET": tenant.client_secret, "AUTH0_AUDIENCE": tenant.audience,
            "TOKEN_VAULT_HOME": folder, "TOKEN_VAULT_CONFIG": str(config),
        }  # fmt: skip
        config.write_text("", encoding="utf-8")
        yield servers, tenant, environment


def one(
    servers: embedded.Servers,
    tenant: Emulation,
    environment: dict[str, str],
    plan: str,
    users: int,
    minutes: int = 60,
) -> Outcome:
    """Sync one plan's tenant through a day.

    A full sync while the tenant changes, an hour of ordinary activity, then the daily reconciliation; the
    vault is compared with Auth0 after each.
    """
    limits = PLANS[plan]
    limit = limits.limits[limits.limit_name("read_users")]
    parts = Progress(tenant, environment, plan)
    parts.say(f"{plan}: {users:,} users sign up")
    prepare(servers, tenant, plan, users)
    tenant.set_clock(tenant.now())  # from here on it moves by what the processes wait
    tenant.start_activity(**ACTIVITY)
    seconds = parts.run("scan", "full sync")
    tenant.stop_activity()
    counts = tenant.limit_counts()
    pages = counts["endpoints"][LIST]["calls"]
    bucket = limits.limit_name("read_users")
    counted = calls(tenant) if bucket == ALL_CALLS else int(counts["groups"][bucket]["calls"])
    fewest = -(-tenant.count_alive() // 100)
    tenant.set_search_lag(0)
    parts.run("settle", "what changed meanwhile")
    mistakes = find_mistakes(servers, tenant)
    refused = sum(group["refused"] for group in tenant.limit_counts()["groups"].values())
    tenant.reset_calls()
    tenant.start_activity(**ACTIVITY)
    parts.run("hour", f"{minutes} minutes of activity", minutes=minutes)
    happened = tenant.stop_activity()
    hour = calls(tenant)
    parts.run("settle", "what changed meanwhile")
    tenant.set_export(seconds=EXPORT)
    tenant.reset_calls()
    # All users were seen before: by an export, where there are many.
    parts.run("scan", "daily reconciliation")
    reconciling = calls(tenant)
    mistakes += find_mistakes(servers, tenant)
    for mistake in mistakes:
        parts.say(mistake)
    return Outcome(
        plan, users, seconds, max(0.0, (counted - limit.burst) / limit.per_second), refused, pages, len(mistakes),
        hour, happened.get("logins", 0), 4 * fewest, reconciling,
    )  # fmt: skip


class Progress:
    """Runs the parts of one plan, and tells how far they are."""

    def __init__(self, tenant: Emulation, environment: dict[str, str], plan: str) -> None:
        self._tenant, self._environment, self._plan = tenant, environment, plan

    def say(self, what: str, *, lasting: bool = True) -> None:
        """Tell something; on a terminal what does not last is written over."""
        if sys.stderr.isatty():
            print(f"\r\033[K{what}", end="\n" if lasting else "", file=sys.stderr, flush=True)
        elif lasting:
            print(what, file=sys.stderr, flush=True)

    def run(self, part: str, name: str, *, minutes: int = 60) -> float:
        """Do one part; return its seconds by the tenant's clock."""

        def tell(calls: int) -> None:
            self.say(f"{self._plan}: {name}, {calls:,} calls", lasting=False)

        began = time.monotonic()
        seconds = run(part, self._tenant, self._environment, self._plan, minutes=minutes, tell=tell)
        self.say(f"{self._plan}: {name}, {seconds:,.0f} s at Auth0, {time.monotonic() - began:.0f} s here")
        return seconds


def calls(tenant: Emulation) -> int:
    """How many calls the Management API has had."""
    return sum(int(group["calls"]) for group in tenant.limit_counts()["groups"].values())


def table(outcomes: list[Outcome]) -> Table:
    """The outcomes, for people."""
    made = Table(box=None)
    for column in (
        "plan", "users", "full sync, s", "limit allows, s", "ratio", "429s", "pages", "wrong",
        "calls in an hour", "logins in it", "full scan every 15 min",
        "calls to reconcile",
    ):  # fmt: skip
        made.add_column(column, justify="right")
    for each in outcomes:
        made.add_row(
            each.plan, f"{each.users:,}", f"{each.seconds:.0f}", f"{each.allowed:.0f}",
            f"{each.seconds / each.allowed:.2f}" if each.allowed > 0 else "", str(each.refused), str(each.calls),
            str(each.wrong), str(each.hour_calls), str(each.hour_logins), str(each.scan_calls),
            str(each.reconciling_calls),
        )  # fmt: skip
    return made


def main() -> int:
    """Run each plan; 0 if all are clean."""
    parser = argparse.ArgumentParser(prog="make scale", allow_abbrev=False)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--minutes", type=int, default=60, help="of activity that are followed")
    parser.add_argument(
        "--kills", type=int, help="sync with a real worker, beat and Redis, and kill each of them so often"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments of kills")
    given = parser.parse_args()
    if given.kills is not None:
        return kills.main(given.plans, given.users, given.kills, given.seed)
    outcomes = []
    with stage() as (servers, tenant, environment):
        for plan in given.plans:
            outcomes.append(one(servers, tenant, environment, plan, given.users, given.minutes))
            Console(width=200).print(table(outcomes[-1:]))
    if len(outcomes) > 1:
        Console(width=200).print(table(outcomes))
    return 0 if all(outcome.clean for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
