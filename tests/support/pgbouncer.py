"""A PgBouncer in transaction mode before a Postgres."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.support.ports import free_port
from tests.support.wait import until
from token_vault.secret import Secret

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

_CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
server_reset_query =
{user}
"""


@contextmanager
def paused(folder: Path) -> Iterator[None]:
    """Stop the pooler of this folder as a debugger or a frozen host would: its connections stay, and nothing answers."""
    process = int((folder / "pgbouncer.pid").read_text())
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def pgbouncer(url: Secret, folder: Path, *, size: int) -> Iterator[Secret]:
    """Give the address of a pooler with so many sessions of its own."""
    assert PROGRAM is not None
    address = urlsplit(url.reveal())
    own_port = free_port()
    folder.mkdir(mode=0o755)
    user = "user = nobody" if os.geteuid() == 0 else ""
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        _CONFIGURATION.format(
            host=address.hostname, port=address.port, own_port=own_port, folder=folder, size=size, user=user
        )
    )
    (folder / "users.txt").write_text(f'"{address.username}" "{address.password}"\n')
    if user:
        for each in (folder, *folder.iterdir()):
            shutil.chown(each, "nobody")
        for parent in list(folder.parents)[:-2]:
            parent.chmod(parent.stat().st_mode | 0o011)
    pooled = Secret(url.reveal().replace(f":{address.port}/", f":{own_port}/"))
    process = subprocess.Popen(
        [PROGRAM, str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        with suppress(psycopg.OperationalError):
            psycopg.connect(pooled.reveal(), connect_timeout=5).close()
            return True
        return False

    try:
        until(answers, "the pooler answers")
        yield pooled
    finally:
        process.terminate()
        process.wait()
