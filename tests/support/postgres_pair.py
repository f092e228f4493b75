"""A primary, its streaming standby, and an address that can be moved from one to the other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.support.forwarder import Forwarder, forwarder
from tests.support.ports import free_port
from tests.support.wait import until
from token_vault.secret import Secret
from worker.embedded import private_home
from worker.embedded.account import account
from worker.embedded.files import private_folder, write_private
from worker.embedded.postgres import Postgres, postgres_binary
from worker.embedded.server import Access

_REPLICATED = ("wal_level=replica", "max_wal_senders=3", "hot_standby=on")

_HBA = "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"


class Primary(Postgres):
    """An embedded Postgres that a standby may follow."""

    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:
        """Let its role replicate."""
        super().prepare(access, alive, new_password=new_password)
        write_private(self.folder / "pg_hba.conf", _HBA)
        self._sql(self.data, "ALTER ROLE token_vault REPLICATION;\n", alive)

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres."""
        return [*super().arguments(access), *(part for each in _REPLICATED for part in ("-c", each))]

    def set_read_only(self, read_only: bool) -> None:
        """Take no more writes over the connections that are open, as a demoted primary; or take them again."""
        file = self.folder / "postgresql.conf"
        line = "default_transaction_read_only = on\n"
        text = file.read_text().replace(line, "")
        write_private(file, text + line if read_only else text)
        pid = self._pid()
        assert pid is not None
        os.kill(pid, signal.SIGHUP)


class Standby(Primary):
    """Copies a primary when it starts, and follows it."""

    def __init__(self, home: Path, primary: Secret) -> None:
        super().__init__(home, durable=False)
        self._primary = primary

    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:
        """Copy the primary."""
        Postgres.prepare(self, access, alive, new_password=new_password)
        write_private(self.folder / "pg_hba.conf", _HBA)

    def _initialise(self, access: Access, alive: int) -> None:
        private_folder(self.data, *account())
        self.run(
            postgres_binary("pg_basebackup"), "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-d", self._primary.reveal(), alive=alive, seconds=60,
        )  # fmt: skip

    def is_ready(self, access: Access) -> bool:
        """Whether it answers, read-only."""
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url(access).reveal(), connect_timeout=5).close()
            return True
        return False

    def promote(self) -> None:
        """Make it the primary."""
        with Path(os.devnull).open() as alive:
            self.run(
                postgres_binary("pg_ctl"), "promote", "-D", str(self.data), alive=alive.fileno(), seconds=60
            )


@dataclass(frozen=True)
class PostgresPair:
    """A primary with its standby.

    Attributes:
        url: the address that is moved.
        primary_url: of the server that is the primary at first.
    """

    primary: Primary
    standby: Standby
    forwarder: Forwarder
    url: Secret
    primary_url: Secret
    standby_url: Secret

    def fail_over(self) -> None:
        """Promote the standby once it has all, and move the address."""
        self._take_over(self.standby, self.primary_url, self.standby_url)

    @contextmanager
    def failed_back(self, folder: Path) -> Iterator[Secret]:
        """Let a copy of the new primary take over, as the old one made anew; give its own address.

        The others end their connections then, as servers do that are restarted as standbys.
        """
        self.standby.set_read_only(True)
        with _following(folder, self.standby_url) as (again, url):
            self._take_over(again, self.standby_url, url)
            for demoted in (self.primary_url, self.standby_url):
                with psycopg.connect(demoted.reveal(), autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                    )
            yield url

    def _take_over(self, standby: Standby, primary_url: Secret, standby_url: Secret) -> None:
        with (
            psycopg.connect(primary_url.reveal()) as primary,
            psycopg.connect(standby_url.reveal(), autocommit=True) as follower,
        ):
            written = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert written is not None
            until(
                lambda: follower.execute(
                    "SELECT 1 WHERE pg_last_wal_replay_lsn() >= %s::pg_lsn", (written[0],)
                ).fetchone(),
                "the standby has all",
            )
        standby.promote()
        self.forwarder.target = _port(standby_url)


@contextmanager
def _following(folder: Path, primary_url: Secret) -> Iterator[tuple[Standby, Secret]]:
    """Run a standby of a primary."""
    standby = Standby(private_home(folder), primary_url)
    private_folder(standby.folder, os.geteuid())
    # A standby has its primary's passwords.
    access = {"port": free_port(), "password": urlsplit(primary_url.reveal()).password}
    write_private(standby.folder / "access.json", json.dumps(access))
    with standby.running() as (url, _):
        yield standby, url


@contextmanager
def postgres_pair(folder: Path) -> Iterator[PostgresPair]:
    """Have a pair of servers."""
    with ExitStack() as stack:
        primary = Primary(private_home(folder / "primary"), durable=False)
        primary_url, _ = stack.enter_context(primary.running())
        standby, standby_url = stack.enter_context(_following(folder / "standby", primary_url))
        line = stack.enter_context(forwarder(_port(primary_url)))
        url = Secret(primary_url.reveal().replace(f":{_port(primary_url)}/", f":{line.port}/"))
        yield PostgresPair(primary, standby, line, url, primary_url, standby_url)


def _port(url: Secret) -> int:
    port = urlsplit(url.reveal()).port
    assert port is not None
    return port
