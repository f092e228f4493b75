"""Servers, processes and a clock that faults act on."""

from __future__ import annotations

import json
import os
import signal as signals
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import redis
from celery import Celery
from psycopg.rows import dict_row

from emulators.client import Emulation, digest
from tests.faults.journal import Journal, read
from tests.support.keys import ACCESS_KEY, REFRESH_KEY
from tests.support.wait import until
from token_vault.connect import connect
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret
from worker.embedded import locks
from worker.embedded.postgres import Postgres
from worker.embedded.redis import Redis
from worker.embedded.server import is_free
from worker.vault.db.engine import SESSION_SETTINGS

REPOSITORY = Path(__file__).parents[2]
Row = dict[str, Any]

WORKERS = ("bulk-1", "bulk-2", "interactive")

_BUSY = """
SELECT id FROM grants WHERE claim_owner IS NOT NULL OR state = 'in_doubt' OR in_doubt_since IS NOT NULL AND state = 'active'
    OR due_at < now() - interval '3 s'
"""


@dataclass
class Stage:
    """One vault under attack.

    Attributes:
        life: of the providers' access tokens, in seconds.
        scale: by how much calls and claims are shorter than in production.
        plants: the bugs that its workers have.
    """

    home: Path
    folder: Path
    emulation: Emulation
    environment: dict[str, str]
    life: float
    scale: float
    stack: ExitStack
    plants: Sequence[str] = ()
    zygote: subprocess.Popen[str] | None = None
    pids: dict[str, int] = field(default_factory=dict)
    people: list[tuple[str, str]] = field(default_factory=list)
    _makers: dict[str, Callable[[], int]] = field(default_factory=dict)

    @property
    def control(self) -> Path:
        """The folder by which points are armed."""
        return self.folder / "control"

    @property
    def journal_folder(self) -> Path:
        """The folder of all processes' journals."""
        return self.folder / "journal"

    @cached_property
    def journal(self) -> Journal:
        """What is done to the stage."""
        return Journal(self.journal_folder, "stage")

    # Processes

    def start_zygote(self) -> None:
        """Start the process that all others are forked from."""
        self.control.mkdir(exist_ok=True)
        environment = self.environment | {
            "FAULTS_CONTROL": str(self.control), "FAULTS_SCALE": str(self.scale),
            "FAULTS_PLANTS": " ".join(self.plants),
        }  # fmt: skip
        log = self.stack.enter_context((self.folder / "zygote.log").open("ab"))
        self.zygote = self.stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.puppet"],
                cwd=REPOSITORY,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        )
        self.stack.callback(self.zygote.kill)
        self.stack.callback(self.kill_all)

    def fork(self, name: str, **arguments: Any) -> None:
        """Start a process, now and whenever it is found dead."""

        def make() -> int:
            assert self.zygote is not None
            assert self.zygote.stdin is not None
            assert self.zygote.stdout is not None
            given = {"log": str(self.folder / f"{name}.log")} | arguments
            self.zygote.stdin.write(json.dumps(given) + "\n")
            self.zygote.stdin.flush()
            return int(self.zygote.stdout.readline())

        self._makers[name] = make
        self.pids[name] = make()

    def celery(self, name: str, queues: str | None, threads: int = 4, skew: float = 0.0) -> None:
        """Start a Celery worker, or with no queues a beat."""
        argv = ["beat"]
        if queues:
            argv = ["worker", "-Q", queues, "-P", "threads", "-c", str(threads), "-n", f"{name}@%h"]
            argv += ["--without-gossip", "--without-mingle"]
        self.fork(name, role="celery", argv=argv, skew=skew)

    def said(self, name: str) -> str:
        """What a process has written so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def alive(self, name: str) -> bool:
        """Whether a process runs."""
        try:
            os.kill(self.pids[name], 0)
        except ProcessLookupError:
            return False
        return True

    def restart_ended(self, *names: str) -> int:
        """Restart the processes that have ended; return their number."""
        dead = [name for name in names or self.pids if not self.alive(name)]
        for name in dead:
            self.pids[name] = self._makers[name]()
        return len(dead)

    def signal(self, name: str, number: int) -> None:
        """Send a process a signal, and note it."""
        self.signal_process(self.pids[name], number)

    def signal_process(self, pid: int, number: int) -> None:
        """Send a process a signal by its id, and note it."""
        what = {signals.SIGKILL: "killed", signals.SIGSTOP: "paused", signals.SIGCONT: "resumed"}
        self.journal.write(what[signals.Signals(number)], target=pid)
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill_all(self) -> None:
        """End all processes of the stage; that is no fault."""
        for pid in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)

    def send(self, *messages: tuple[str, str, dict[str, Any]]) -> None:
        """Queue tasks; a Redis that is away loses them."""
        app = Celery("faults", broker=self.environment["REDIS_URL"], set_as_current=False)
        app.conf.update(task_serializer="json", broker_connection_retry=False)
        with suppress(Exception):
            for name, queue, arguments in messages:
                app.send_task(name, kwargs=arguments, queue=queue, ignore_result=True, retry=False)
        app.close()

    # Servers

    def stop_server(self, server: str, how: signals.Signals) -> None:
        """Stop Postgres or Redis and wait until it is gone."""
        folder = self.home / server
        os.kill(int((folder / "server.pid").read_text()), how)
        until(lambda: not locks.is_held(folder / "alive.lock"), f"{server} is gone")

    def start_server(self, server: str) -> None:
        """Start it again, at the same address."""
        made = Postgres(self.home) if server == "postgres" else Redis(self.home)
        url = self.environment["DATABASE_URL" if server == "postgres" else "REDIS_URL"]
        # While it was away the port may have been given to somebody's outgoing connection.
        until(lambda: is_free(int(urlsplit(url).port or 0)), f"the port of {server} is free")
        self.stack.enter_context(made.running())

    def flush_redis(self) -> None:
        """Empty Redis."""
        with redis.Redis.from_url(self.environment["REDIS_URL"]) as connection:
            connection.flushall()

    # The vault

    def sql(self, statement: str, *values: object) -> list[Row]:
        """Run a statement on the vault, over a new connection."""
        with psycopg.connect(
            self.environment["DATABASE_URL"], autocommit=True, row_factory=dict_row, prepare_threshold=None
        ) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def advance(self, seconds: float) -> None:
        """Move the clock of the database and the providers."""
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            connection.execute("LOCK TABLE moved IN ACCESS EXCLUSIVE MODE")
            connection.execute("UPDATE moved SET by = by + make_interval(secs => %s)", (seconds,))
            (before,) = connection.execute("SELECT by FROM moved").fetchone() or (None,)
            self.emulation.advance(seconds)
            self.journal.write("clock moved", by=seconds)
        self.journal.write("clock settled")
        # As the vault's processes connect: with settings of theirs that look for now() elsewhere, nothing would move.
        address = PostgresAddress.parse(Secret(self.environment["DATABASE_URL"]))
        with connect(address, "faults", settings=SESSION_SETTINGS) as connection:
            (moved,) = connection.execute("SELECT now() - pg_catalog.now()").fetchone() or (None,)
        if moved != before:
            raise RuntimeError(f"the vault's clock was moved by {moved} instead of {before}")

    def refresh_token(self, row: Row) -> str | None:
        """Open a row's refresh token."""
        if row["refresh_ciphertext"] is None:
            return None
        key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
        ring = KeyRing("refresh", [REFRESH_KEY])
        place = EncryptionContext.of_grant(key, "refresh", row["refresh_version"])
        return ring.decrypt(place, bytes(row["refresh_ciphertext"])).reveal()

    def access_token(self, row: Row) -> str | None:
        """Open a row's access token."""
        if row["access_ciphertext"] is None:
            return None
        key = GrantKey(row["tenant"], row["connection"], row["user_id"], row["provider_user_id"])
        place = EncryptionContext.of_access_token(key, row["access_version"], row["expires_at"])
        return KeyRing("access", [ACCESS_KEY]).decrypt(place, bytes(row["access_ciphertext"])).reveal()

    def digest(self, row: Row) -> str:
        """Name a row's refresh token as the providers' ledger does."""
        return digest(self.refresh_token(row) or "")

    def filled(self) -> None:
        """Wait until the vault has everybody."""
        until(
            lambda: self.sql("SELECT count(*) AS n FROM grants")[0]["n"] >= len(self.people),
            "all are synced",
            seconds=300,
        )

    def spooled(self) -> list[Path]:
        """The answers that wait on disk."""
        folder = Path(self.environment["TOKEN_VAULT_HOME"]) / "spool"
        return [path for path in folder.glob("*") if path.name[0] != "."] if folder.is_dir() else []

    def quiet(self, timeout: float) -> bool:
        """Wait until each grant was seen at rest, and each spooled answer is gone.

        At rest it is not claimed, overdue or in doubt; what falls due meanwhile is no unrest.
        """
        deadline, forced = time.monotonic() + timeout, set[str]()
        unseen = {row["id"] for row in self.sql("SELECT id FROM grants")}
        spooled = set(self.spooled())
        while time.monotonic() < deadline:
            self.restart_ended()
            unseen &= {row["id"] for row in self.sql(_BUSY)}
            spooled &= set(self.spooled())
            if not unseen and not spooled:
                return True
            self._force(forced)
            time.sleep(1)
        return False

    def _force(self, forced: set[str]) -> None:
        """Decide what is in doubt now, as an operator would: by force, once."""
        for row in self.sql(
            "SELECT user_id, connection FROM grants WHERE claim_owner IS NULL"
            " AND (state = 'in_doubt' OR state = 'active' AND in_doubt_since IS NOT NULL) LIMIT 300"
        ):
            if row["user_id"] not in forced:
                forced.add(row["user_id"])
                self.send(("worker.refresh_token", "interactive", {**row, "force": True}))

    def drain(self) -> None:
        """End what asks for renewals, let the calls end, then end all."""
        for name in self.pids.keys() - set(WORKERS):
            with suppress(ProcessLookupError):
                os.kill(self.pids[name], signals.SIGKILL)
        claimed = "SELECT id FROM grants WHERE claim_owner IS NOT NULL"
        with suppress(AssertionError):  # a claim that never ends has been told by `quiet`
            until(
                lambda: not self.sql(claimed) and not self._open_calls(), "the calls have ended", seconds=60
            )
        self.kill_all()

    def _open_calls(self) -> set[str]:
        """The calls of living processes whose end is not in the journal, which a commit is before."""
        living = self.pids.values()
        steps = [line for line in read(self.journal_folder) if "call" in line and line["pid"] in living]
        return {step["call"] for step in steps} - {step["call"] for step in steps if step["what"] == "ended"}
