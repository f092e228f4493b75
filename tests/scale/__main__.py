"""``make scale``: sync 100,000 changing users at each plan's limits.

See docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emulators.client import Emulation, running
from tests.scale import kills
from tests.scale.process import run
from tests.scale.tenant import ACTIVITY, LIST, count_mistakes, prepare
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from worker import embedded
from worker.auth0 import PLANS
from worker.vault.db.migrate import migrate

# Emulated seconds in a real one: as fast as one process keeps up with on two cores.
CALLS_A_SECOND = 14.0
# An export takes so many seconds of the tenant's clock.
EXPORT = 600.0


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
        ratio = self.seconds / self.allowed if self.allowed else 0
        return self.wrong == 0 and self.refused <= 1 and ratio <= 1.1


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
) -> Outcome:
    """Sync one plan's tenant through a day.

    A full sync while the tenant changes, an hour of ordinary activity, then the daily reconciliation; the
    vault is compared with Auth0 after each.
    """
    limits = PLANS[plan]
    limit = limits.limits[limits.limit_name("read_users")]
    speed = max(1.0, CALLS_A_SECOND / limit.per_second)
    prepare(servers, tenant, plan, users, speed=speed)
    tenant.start_activity(**ACTIVITY)
    seconds = run("scan", tenant, environment, plan, speed)
    tenant.stop_activity()
    counts = tenant.limit_counts()
    pages = counts["endpoints"][LIST]["calls"]
    fewest = -(-tenant.count_alive() // 100)
    tenant.set_search_lag(0)
    run("settle", tenant, environment, plan, speed)
    mistakes = count_mistakes(servers, tenant)
    refused = sum(group["refused"] for group in tenant.limit_counts()["groups"].values())
    tenant.reset_calls()
    tenant.set_speed(60)
    tenant.start_activity(**ACTIVITY)
    run("hour", tenant, environment, plan, 60)
    happened = tenant.stop_activity()
    hour = calls(tenant)
    run("settle", tenant, environment, plan, 60)
    tenant.set_export(seconds=EXPORT)
    tenant.reset_calls()
    run(
        "scan", tenant, environment, plan, 60
    )  # all users were seen before: by an export, where there are many
    reconciling = calls(tenant)
    mistakes += count_mistakes(servers, tenant)
    return Outcome(
        plan, users, seconds, max(0.0, (fewest - limit.burst) / limit.per_second), refused, pages, mistakes,
        hour, happened.get("logins", 0), 4 * fewest, reconciling,
    )  # fmt: skip


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
            outcomes.append(one(servers, tenant, environment, plan, given.users))
            Console(width=200).print(table(outcomes[-1:]))
    if len(outcomes) > 1:
        Console(width=200).print(table(outcomes))
    return 0 if all(outcome.clean for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
