"""How many connections to Postgres each process may hold, as docs/operating.md counts them."""

from __future__ import annotations

import re
from pathlib import Path

from token_vault import pool
from worker import process
from worker.api import service
from worker.cli import follow

OPERATING = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")
LISTENER, RECORDER, COMMAND = 1, 1, 3
MAX_CONNECTIONS, SUPERUSER_RESERVED_CONNECTIONS = 100, 3  # Postgres' defaults
# Those who replace tokens have a reader of their own.
API_READERS = 2


def test_the_table_is_what_the_code_allows() -> None:
    """Each row of the table is the sum of the pools that its process opens."""
    listening_reader = pool.MAX_CONNECTIONS + LISTENER
    expected = {
        "a Celery worker": f"{process.MAX_DATABASE_CONNECTIONS}",
        "`token-vault follow`": f"{follow.MAX_OWN_CONNECTIONS}, and {follow.MAX_TENANT_CONNECTIONS} for each tenant",
        "`token-vault serve`": f"{service.MAX_DATABASE_CONNECTIONS + pool.MAX_CONNECTIONS}, and {API_READERS * listening_reader} "
        "for each tenant",
        "an app's reader": f"{listening_reader + RECORDER}; {listening_reader + pool.MAX_CONNECTIONS} with",
    }
    for name, count in expected.items():
        assert re.search(rf"^  \| {re.escape(name)}[^|]*\| {re.escape(count)}", OPERATING, re.M), name


def test_a_site_fits_into_the_default_of_postgres() -> None:
    """Two workers, `follow`, `serve` and a command leave a reader room within 100 connections."""
    follower = follow.MAX_OWN_CONNECTIONS + follow.MAX_TENANT_CONNECTIONS
    readers = API_READERS * (pool.MAX_CONNECTIONS + LISTENER)
    api = service.MAX_DATABASE_CONNECTIONS + pool.MAX_CONNECTIONS + readers
    site = 2 * process.MAX_DATABASE_CONNECTIONS + follower + api + COMMAND
    assert f"need {site} of Postgres' default" in OPERATING
    left = MAX_CONNECTIONS - SUPERUSER_RESERVED_CONNECTIONS - site
    assert left >= pool.MAX_CONNECTIONS + LISTENER + RECORDER
