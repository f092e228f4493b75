"""Embedded Postgres and Redis, if no address is configured.

All their files are under TOKEN_VAULT_HOME. They listen on 127.0.0.1, on ports chosen at the first start, with a random
password. The first command that needs them starts them, others share them, and the last one to end stops them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from token_vault.errors import ConfigurationError
from token_vault.home import no_vault
from token_vault.secret import Secret
from worker.embedded import locks
from worker.embedded.postgres import Postgres, postgres_binary
from worker.embedded.redis import Redis

__all__ = ["Servers", "find", "home_lock", "is_up", "postgres_binary", "private_home", "running", "servers"]


@dataclass(frozen=True, slots=True)
class Servers:
    """The addresses of the embedded servers, with passwords.

    Attributes:
        database_url: of Postgres; an empty secret if it was not wanted, or not found.
        redis_url: of Redis; likewise.
        started: whether one of them was started by this call.
    """

    database_url: Secret
    redis_url: Secret
    started: bool = False


@contextmanager
def servers(
    home: Path, *, postgres: bool = True, redis: bool = True, durable: bool = True
) -> Iterator[Servers]:
    """Run the servers within the block.

    Afterwards a server that no other process uses is stopped.

    Args:
        home: the folder of all files (TOKEN_VAULT_HOME); made with mode 0700 if it is missing.
        postgres: whether Postgres is wanted.
        redis: whether Redis is wanted.
        durable: False for tests: a power cut may lose data, and Redis starts empty.

    Raises:
        ConfigurationError: a server's program is missing, the folder is another user's, a server cannot be started
            (within 60 s) or does not stop (within 30 s).
    """
    home = private_home(home)
    with ExitStack() as running:
        database_url, started_postgres = Secret(""), False
        redis_url, started_redis = Secret(""), False
        if postgres:
            database_url, started_postgres = running.enter_context(Postgres(home, durable=durable).running())
        if redis:
            redis_url, started_redis = running.enter_context(Redis(home, durable=durable).running())
        yield Servers(database_url, redis_url, started_postgres or started_redis)


def find(home: Path) -> Servers | None:
    """Return the servers running under this home, or None.

    Starts and changes nothing.

    Raises:
        ConfigurationError: the folder is another user's.
    """
    home = home.expanduser().resolve()
    database_url, redis_url = Postgres(home).find(), Redis(home).find()
    if database_url is None and redis_url is None:
        return None
    return Servers(database_url or Secret(""), redis_url or Secret(""))


def running(home: Path) -> Servers:
    """Return the servers running under this home.

    Postgres is among them.

    Raises:
        ConfigurationError: no vault runs there, or the folder is another user's.
    """
    found = find(home)
    if found is None or not found.database_url:
        raise no_vault(home)
    return found


@contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """Lock this home for one long-running process, within the block.

    Raises:
        ConfigurationError: another process has locked it; the message has its id.
    """
    path = private_home(home) / "up.lock"
    descriptor = locks.open_lock(path)
    if not locks.try_lock(descriptor):
        os.close(descriptor)
        holder = path.read_text().strip() or "unknown"
        raise ConfigurationError(f"token-vault up is already running under {path.parent} (pid {holder})")
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        locks.release(descriptor)


def is_up(home: Path) -> bool:
    """Whether ``token-vault up`` runs under this home.

    Changes nothing.
    """
    return locks.is_held(home.expanduser().resolve() / "up.lock")


def private_home(home: Path) -> Path:
    """Return the absolute home folder; make it if missing.

    Raises:
        ConfigurationError: it cannot be made or written, or is another user's.
    """
    home = home.expanduser().resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = home.stat().st_uid
    except OSError as error:
        raise ConfigurationError(
            f"TOKEN_VAULT_HOME {home} cannot be made: {error.strerror}. Set it to a folder that this user may write"
        ) from error
    if owner != os.geteuid():
        raise ConfigurationError(
            f"TOKEN_VAULT_HOME {home} belongs to user {owner}, and this is user {os.geteuid()}: "
            "set it to a folder of your own"
        )
    if not os.access(home, os.W_OK):
        raise ConfigurationError(
            f"TOKEN_VAULT_HOME {home} cannot be written: set it to a folder on a disk that can, or set DATABASE_URL and "
            "REDIS_URL, with which nothing is kept there but the spool"
        )
    return home
