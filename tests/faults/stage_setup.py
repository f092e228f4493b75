"""Servers, an emulated tenant and processes for one stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg

from emulators.client import Emulation, running
from tests.faults.stage import Stage
from tests.support.processes import site
from token_vault.secret import Secret
from worker import embedded
from worker.vault.db.migrate import migrate

# The database's clock is the vault's: all of its statements ask for it by these names, and get a time that can be
# moved. Whoever moves it holds the row, so that nobody sees the old time of one clock with the new one of another.
# The address has them looked for here first, where the vault's own settings would find Postgres' own.
_CLOCK = """
CREATE TABLE moved (by interval NOT NULL);
INSERT INTO moved VALUES ('0');
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + by FROM public.moved';
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + by FROM public.moved';
"""
_SEARCH_PATH = "public, pg_catalog, pg_temp"
# Functions that look nowhere but among Postgres' own.
_FIXED_PATHS = """
SELECT oid::regprocedure::text FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND EXISTS (SELECT FROM unnest(proconfig) AS set WHERE set LIKE 'search_path=%')
"""

_CLAIM_LOG = Path(__file__).with_name("claim_log.sql").read_text().encode()

# Each strict provider spends a refresh token once, forgives nothing, and revokes the family when it comes again.
STRICT: Mapping[str, Any] = {
    "rotates": True, "grace": 0.0, "reuse_revokes_family": True, "old_access_dies": False,
}  # fmt: skip


@contextmanager
def stage(
    folder: Path,
    *,
    grants: int,
    life: float,
    scale: float,
    fresh_for: float | None = None,
    plants: Sequence[str] = (),
) -> Iterator[Stage]:
    """Set up servers and six connections.

    Four are strict, one forgives reuse for some seconds, one does not rotate.
    """
    with ExitStack() as stack:
        home = folder / "servers"
        servers = stack.enter_context(embedded.servers(home, durable=True))
        servers = replace(servers, database_url=_with_moved_clock(servers.database_url))
        migrate(servers.database_url)
        with psycopg.connect(servers.database_url.reveal(), autocommit=True) as connection:
            for (function,) in connection.execute(_FIXED_PATHS).fetchall():
                connection.execute(f"ALTER FUNCTION {function} SET search_path = {_SEARCH_PATH}".encode())
            connection.execute(_CLAIM_LOG)
        emulation = stack.enter_context(running())
        emulation.set_window(None)  # how a tenant of any size is listed is not what is tested here
        connections = _connections(emulation, life)
        made = stack.enter_context(
            site(
                servers,
                emulation,
                folder,
                schedule=f"renew = {5 / scale}\nchanges = 20\nconnections = 60\nfull = 600",
            )
        )
        found = Stage(home, folder, emulation, made.environment, life, scale, stack, plants)
        strict = connections[:-2]
        shares = {name: grants // len(strict) + (n < grants % len(strict)) for n, name in enumerate(strict)}
        if fresh_for is None:
            shares = dict.fromkeys(strict, grants * 2 // 10)
            shares |= {"forgiving": grants // 10, "google": grants // 10}
        for name, count in shares.items():
            for part in range(10):  # they logged in one after the other, as people do
                n = count // 10 + (part < count % 10)
                ends = life * (0.5 + part / 20) if fresh_for is None else fresh_for
                users = emulation.add_users(name, n, expires_in=ends) if n else []
                found.people += [(user, name) for user in users]
        (folder / "people.json").write_text(json.dumps(found.people))
        found.start_zygote()
        yield found


def _with_moved_clock(database_url: Secret) -> Secret:
    """Make the clock; return the address by which statements ask for it."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(_CLOCK)
    options = urlencode({"options": "-csearch_path=" + _SEARCH_PATH.replace(" ", "")})
    return Secret(f"{database_url.reveal()}?{options}")


def _connections(emulation: Emulation, life: float) -> list[str]:
    names = [f"strict-{n}" for n in range(1, 5)]
    for name in names:
        emulation.configure_provider(name, like="custom", access_life=life, **STRICT)
        emulation.add_connection(name, "oauth2", name)
    emulation.configure_provider("forgiving", like="okta", access_life=life, grace=30.0)
    emulation.add_connection("forgiving", "okta", "forgiving")
    emulation.configure_provider("google", access_life=life)
    emulation.add_connection("google", "google-oauth2", "google")
    return [*names, "forgiving", "google"]


def start_processes(stage: Stage, *, readers: int, seed: int) -> None:
    """Start workers, two beats and readers, some with skewed clocks."""
    stage.celery("bulk-1", "renew,sync", skew=300.0)
    stage.celery("bulk-2", "renew", skew=-300.0)
    stage.celery("interactive", "interactive", threads=8, skew=300.0)
    stage.celery("beat-1", None)
    stage.celery("beat-2", None)
    for number in range(readers):
        stage.fork(
            f"reader-{number}", role="reader", emulation=stage.emulation.base_url, seed=seed + number,
            people=str(stage.folder / "people.json"), reads=str(stage.folder / f"reads-{number}.jsonl"),
            life=stage.life, pause=0.05,
        )  # fmt: skip
