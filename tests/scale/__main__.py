"""``make scale``: a tenant of 100,000 users that changes meanwhile, at each plan's limits. See docs/scale.md."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from rich.console import Console
from rich.table import Table

from tests.conftest import ACCESS_KEY, REFRESH_KEY, TABLES
from tests.emulators.control import ROOT, Emulation, running
from worker import embedded
from worker.auth0 import PLANS
from worker.vault.migrating import migrate

LIST = "GET /api/v2/users"
SCOPES = [
    "read:users", "read:user_idp_tokens", "read:connections", "read:connections_options", "read:logs",
]  # fmt: skip
CONNECTIONS = ("google-oauth2", "bitbucket", "windowslive")
# Emulated seconds in a real one: as fast as one process keeps up with on two cores.
CALLS_A_SECOND = 14.0
ACTIVITY: dict[str, Any] = {"logins": 40, "creations": 6, "links": 1, "unlinks": 0.5, "deletions": 3}


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
    kills: int
    pages_again: int
    hour_calls: int
    hour_logins: int
    crawl_calls: int

    @property
    def clean(self) -> bool:
        """Whether it is as it should be."""
        ratio = self.seconds / self.allowed if self.allowed else 0
        return self.wrong == 0 and self.refused <= 1 and ratio <= 1.1 and self.pages_again <= self.kills


@contextmanager
def stage() -> Iterator[tuple[embedded.Servers, Emulation, dict[str, str]]]:
    """Servers, an emulated tenant, and the environment of a process that syncs it."""
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


def prepared(servers: embedded.Servers, tenant: Emulation, plan: str, users: int, *, speed: float) -> None:
    """An empty vault, and a tenant of so many users with a search that lags by five seconds."""
    with psycopg.connect(servers.database_url.reveal(), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
    with redis.Redis.from_url(servers.redis_url.reveal()) as broker:
        broker.flushall()
    tenant.reset()
    tenant.set_scopes(SCOPES)
    for name in CONNECTIONS:
        tenant.add_connection(name, name, {"google-oauth2": "google", "windowslive": "entra"}.get(name, name))
    tenant.seed_users(users, list(CONNECTIONS), linked=0.02, cluster=250)
    tenant.write_log("fapi")
    tenant.set_search_lag(5)
    tenant.set_plan(plan)
    tenant.set_speed(speed)
    tenant.reset_calls()


def run(
    what: str, tenant: Emulation, environment: dict[str, str], plan: str, speed: float, kills: int = 0
) -> tuple[float, int]:
    """Run a part in a process of its own, killed so often; gives seconds by the tenant's clock, and the kills."""
    command = [sys.executable, "-m", "tests.scale.process", what, tenant.base_url, plan, str(speed)]
    began, killed = tenant.now(), 0
    while True:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        if killed < kills:
            time.sleep(random.uniform(4, 9))
            if process.poll() is None:
                process.kill()
                process.communicate()
                killed += 1
                continue
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{what} at plan {plan} failed with {process.returncode}")
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        return (told["seconds"] if not killed else tenant.now() - began), killed


def wrong(servers: embedded.Servers, tenant: Emulation) -> int:
    """How many identities the vault lacks or has too many, or has with other tokens than Auth0 shows."""
    from worker.tokens import Secret
    from worker.vault.keyring import KeyRing, Place

    ring = KeyRing("access", [Secret(ACCESS_KEY.reveal())])
    shown = {
        (user["user_id"], identity["connection"], str(identity["provider_user_id"])): identity["shown_access"]
        for user in tenant.alive()
        for identity in user["identities"]
    }
    from tests.emulators.control import digest

    mistakes = 0
    with psycopg.connect(servers.database_url.reveal()) as connection:
        rows = connection.execute(
            "SELECT user_id, connection, provider_user_id, access_version, access_sealed FROM grants"
            " WHERE user_id <> '' AND state <> 'erased'"
        )
        for user, name, subject, version, sealed in rows:
            place = Place("grants", ("default", name, user, subject), "access", version)
            held = digest(ring.open(place, bytes(sealed)).reveal())
            mistakes += shown.pop((user, name, subject), None) != held
    return mistakes + len(shown)


def one(
    servers: embedded.Servers,
    tenant: Emulation,
    environment: dict[str, str],
    plan: str,
    users: int,
    kills: int,
) -> Outcome:
    """A full sync while the tenant changes, the end reconciled, then an hour of ordinary activity."""
    limits = PLANS[plan]
    limit = limits.limits[limits.bucket("read_users")]
    speed = max(1.0, CALLS_A_SECOND / limit.per_second)
    prepared(servers, tenant, plan, users, speed=speed)
    tenant.start_activity(**ACTIVITY)
    seconds, killed = run("walk", tenant, environment, plan, speed, kills)
    tenant.stop_activity()
    counts = tenant.limit_counts()
    pages = counts["endpoints"][LIST]["calls"]
    fewest = -(-tenant.count_alive() // 100)
    tenant.set_search_lag(0)
    run("settle", tenant, environment, plan, speed)
    mistakes = wrong(servers, tenant)
    refused = sum(group["refused"] for group in tenant.limit_counts()["groups"].values())
    tenant.reset_calls()
    tenant.set_speed(60)
    tenant.start_activity(**ACTIVITY)
    run("hour", tenant, environment, plan, 60)
    happened = tenant.stop_activity()
    hour = sum(group["calls"] for group in tenant.limit_counts()["groups"].values())
    return Outcome(
        plan, users, seconds, (fewest - limit.burst) / limit.per_second, refused, pages, mistakes, killed,
        max(0, pages - -(-tenant.count_alive() // 99) - 8), hour, happened.get("logins", 0), 4 * fewest,
    )  # fmt: skip


def table(outcomes: list[Outcome]) -> Table:
    """The outcomes, for people."""
    made = Table(box=None)
    for column in (
        "plan", "users", "full sync, s", "limit allows, s", "ratio", "429s", "pages", "wrong", "kills", "pages again",
        "calls in an hour", "logins in it", "crawl every 15 min",
    ):  # fmt: skip
        made.add_column(column, justify="right")
    for each in outcomes:
        made.add_row(
            each.plan, f"{each.users:,}", f"{each.seconds:.0f}", f"{each.allowed:.0f}",
            f"{each.seconds / each.allowed:.2f}" if each.allowed > 0 else "", str(each.refused), str(each.calls),
            str(each.wrong), str(each.kills), str(each.pages_again), str(each.hour_calls), str(each.hour_logins),
            str(each.crawl_calls),
        )  # fmt: skip
    return made


def main() -> int:
    """Run it; 0 where each plan is as it should be."""
    parser = argparse.ArgumentParser(prog="make scale")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--plans", nargs="*", default=list(PLANS))
    parser.add_argument("--kills", type=int, default=0, help="how often the sync is killed in its full run")
    given = parser.parse_args()
    outcomes = []
    with stage() as (servers, tenant, environment):
        for plan in given.plans:
            outcomes.append(one(servers, tenant, environment, plan, given.users, given.kills))
            Console(width=200).print(table(outcomes[-1:]))
    Console(width=200).print(table(outcomes))
    return 0 if all(outcome.clean or given.kills for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
