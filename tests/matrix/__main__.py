"""`python -m tests.matrix FOLDER`: run key tests on each version of Postgres, Redis and Python."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.matrix.servers import Cell, find_cells

# Migrations, settings, rights and views, claims, partitions, renewals, reads and wakeups.
POSTGRES_TESTS = (
    "tests/integration/test_migrations_run.py",
    "tests/integration/vault/test_database_settings.py",
    "tests/integration/vault/test_claims.py",
    "tests/integration/vault/test_roles.py",
    "tests/integration/vault/test_consumers.py",
    "tests/integration/vault/test_audit.py",
    "tests/integration/renewal/test_engine.py",
    "tests/integration/client/test_wait_for_refresh.py",
)
# Queues and results, addresses and Sentinels, the rate limit's script, outages.
REDIS_TESTS = (
    "tests/integration/test_tasks.py",
    "tests/integration/test_broker.py",
    "tests/integration/test_redis_forms.py",
    "tests/integration/test_redis_outages.py",
    "tests/integration/auth0/test_rate_limit_budget.py",
)
TESTS = {
    "Postgres": POSTGRES_TESTS,
    "Redis": REDIS_TESTS,
    "Valkey": REDIS_TESTS,
    "Python": (*POSTGRES_TESTS, *REDIS_TESTS),
}
MAX_CELL_SECONDS = 1800


def run(cell: Cell) -> tuple[bool, str]:
    """Run a cell's tests; return whether they passed, and pytest's last line without the time."""
    ended = subprocess.run(
        [cell.python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *TESTS[cell.kind]],
        env={**os.environ, **cell.variables}, capture_output=True, text=True, check=False, timeout=MAX_CELL_SECONDS,
    )  # fmt: skip
    lines = ended.stdout.strip().splitlines() or [ended.stderr[-200:]]
    if ended.returncode != 0:
        print(ended.stdout[-100_000:], file=sys.stderr)
    return ended.returncode == 0, re.sub(r" in [\d.]+s.*", "", lines[-1])


def main() -> int:
    """Print a table; exit 0 where every cell passed."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("folder", type=Path, help="where servers and environments lie")
    parser.add_argument("--only", default="", help="cells whose name begins so, e.g. 'Postgres 14'")
    given = parser.parse_args()
    os.nice(19 - os.nice(0))  # hours of others' work may share this machine
    print(f"{datetime.now(UTC):%Y-%m-%d}\n\n| version | key tests | |\n|---|---|---|", flush=True)
    passed = True
    for cell in find_cells(given.folder.resolve()):
        if cell.name.startswith(given.only):
            passes, detail = run(cell)
            passed = passed and passes
            print(f"| {cell.name} | {'pass' if passes else 'FAIL'} | {detail} |", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
