"""Starts, shares and stops one embedded server.

The first command starts it, all share it, the last one stops it.

This is decided by three lock files in the server's folder, so that no process id has to be trusted:

- ``start.lock`` is held, exclusively, by a command that starts or stops the server: one at a time.
- ``users.lock`` is held, shared, by each command that uses the server. A command that ends and can take it exclusively
  is the last one.
- ``alive.lock`` is inherited by the server and its children, and so is held as long as any of them lives. If it is
  free, no server runs, whatever other files say.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_SH
from pathlib import Path
from typing import ClassVar

from token_vault.errors import ConfigurationError
from token_vault.home import not_ours
from token_vault.secret import Secret
from worker.embedded import locks
from worker.embedded.account import launcher
from worker.embedded.files import private_folder, write_private

START_SECONDS = 60
STOP_SECONDS = 30
_START_ATTEMPTS = 4  # the port may be lost to another program between the choice and the start
_POLL_SECONDS = 0.02

# The servers do not get the command's environment, which may contain client secrets and keys.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server listens on 127.0.0.1, and its password."""

    port: int
    password: Secret


class Server(ABC):
    """One server under the home folder.

    Subclasses add what differs between Postgres and Redis.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.folder = home / self.name.lower()
        self.data = self.folder / "data"
        self.durable = durable
        self._child: subprocess.Popen[bytes] | None = None  # if this process started it

    @abstractmethod
    def program(self) -> Path:
        """Return the path of the server's program.

        Raises:
            ConfigurationError: there is none.
        """

    @abstractmethod
    def prepare(self, access: Access, alive: int, *, new_password: bool) -> None:
        """Prepare data and configuration for a start.

        Args:
            access: port and password.
            alive: the descriptor of ``alive.lock``, which the server's programs inherit.
            new_password: whether the server's data does not have this password yet.
        """

    @abstractmethod
    def arguments(self, access: Access) -> list[str]:
        """Return the program's arguments. None is secret."""

    @abstractmethod
    def is_ready(self, access: Access) -> bool:
        """Whether the server is ready and accepts this password."""

    @abstractmethod
    def url(self, access: Access) -> Secret:
        """Return the address, with the password."""

    def with_new_port(self, access: Access) -> Access:
        """Return access with another port."""
        return Access(_free_port(), access.password)

    @contextmanager
    def running(self) -> Iterator[tuple[Secret, bool]]:
        """Yield the server's URL, and whether this call started it.

        At the block's end the server is stopped, unless other commands use it.

        Raises:
            ConfigurationError: the server cannot be started, or does not stop.
        """
        private_folder(self.folder, os.geteuid())
        with locks.exclusive(self.folder / "start.lock"):
            users = locks.open_lock(self.folder / "users.lock")
            locks.try_lock(users, LOCK_SH)  # nobody takes it exclusively without start.lock
            try:
                access, started = self._ensure()
            except BaseException:
                self._leave(users)
                raise
        try:
            yield self.url(access), started
        finally:
            with locks.exclusive(self.folder / "start.lock"):
                self._leave(users)

    def find(self) -> Secret | None:
        """Return the running server's URL, or None.

        Changes nothing.
        """
        access = self._read_access()
        if access is None or not locks.is_held(self.folder / "alive.lock") or not self.is_ready(access):
            return None
        return self.url(access)

    def run(self, program: Path, *arguments: str, alive: int, stdin: str = "", seconds: float) -> None:
        """Run one of the server's own programs to its end.

        Args:
            program: its path.
            arguments: the program's.
            alive: the descriptor of ``alive.lock``, which it inherits.
            stdin: its input.
            seconds: within which it has to end.

        Raises:
            ConfigurationError: it fails, or does not end in time; the message has its last lines.
        """
        try:
            done = subprocess.run(  # noqa: S603  # paths of installed programs, no shell
                launcher("-", program, arguments),
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=[alive],
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"{program.name} for the embedded {self.name} did not end within {seconds:g} s"
            ) from None
        if done.returncode != 0:
            raise ConfigurationError(
                f"{program.name} for the embedded {self.name} failed: {_last_lines(done.stderr)}"
            )

    def _ensure(self) -> tuple[Access, bool]:
        """Return the server's access, and whether it was started here.

        The loop also handles a server that is starting or stopping, and one that ends during its start.
        """
        deadline = time.monotonic() + START_SECONDS
        starts = 0
        while time.monotonic() < deadline:
            access = self._read_access()
            alive = locks.acquire(self.folder / "alive.lock")
            if alive is None:
                if access is not None and self.is_ready(access):
                    return access, starts > 0
                time.sleep(_POLL_SECONDS)
                continue
            try:
                self._reap()
                if starts == _START_ATTEMPTS:
                    raise ConfigurationError(
                        f"the embedded {self.name} ended while starting. {self._log_tail()}"
                    )
                self._start(access, alive)
                starts += 1
                deadline = time.monotonic() + START_SECONDS
            finally:
                os.close(alive)  # the server has inherited the lock
        raise ConfigurationError(
            f"the embedded {self.name} under {self.folder} runs (pid {self._pid() or 'unknown'}) but did not "
            f"answer within {START_SECONDS} s; try again, or end that process. {self._log_tail()}"
        )

    def _start(self, known: Access | None, alive: int) -> None:
        access = known or Access(_free_port(), Secret(secrets.token_urlsafe(32)))
        if not is_free(access.port):
            access = self.with_new_port(access)
        self.prepare(access, alive, new_password=known is None)
        # After ``prepare``, so that the file has only a password that the server's data has, too.
        written = {"port": access.port, "password": access.password.reveal()}
        write_private(self.folder / "access.json", json.dumps(written))
        (self.folder / "server.pid").unlink(missing_ok=True)
        program = self.program()
        log = self.folder / "server.log"
        with suppress(FileNotFoundError):
            log.replace(self.folder / "server.log.1")
        with log.open("wb") as output:
            log.chmod(0o600)
            self._child = subprocess.Popen(  # noqa: S603  # likewise
                launcher(str(self.folder / "server.pid"), program, self.arguments(access)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=[alive],
                start_new_session=True,  # so that Ctrl-C reaches only the command, which then stops its servers
            )

    def _leave(self, users: int) -> None:
        try:
            if locks.try_lock(users):
                self._stop()
                self._reap()
            elif self._child is not None:
                self._child.returncode = 0  # it runs on for the others, and Popen must not wait for it
        finally:
            locks.release(users)

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        signalled: int | None = None
        while (alive := locks.acquire(self.folder / "alive.lock")) is None:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the embedded {self.name} under {self.folder} (pid {self._pid() or 'unknown'}) "
                    f"did not stop within {STOP_SECONDS} s. {self._log_tail()}"
                )
            pid = self._pid()
            if pid is not None and pid != signalled:
                with suppress(
                    ProcessLookupError, PermissionError
                ):  # if it does not end, the timeout reports it
                    os.kill(pid, self.stop_signal)
                signalled = pid
            time.sleep(_POLL_SECONDS)
        os.close(alive)

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(STOP_SECONDS)

    def _read_access(self) -> Access | None:
        try:
            written = json.loads((self.folder / "access.json").read_text())
            return Access(written["port"], Secret(written["password"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except PermissionError:
            raise not_ours(self.folder) from None

    def _pid(self) -> int | None:
        try:
            return int((self.folder / "server.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _log_tail(self) -> str:
        """Return the last log lines of the latest start."""
        written = self.folder / "access.json"
        since = written.stat().st_mtime if written.exists() else 0.0
        logs = [*self.folder.glob("server.log"), *self.data.glob("log/*")]
        words = [_last_lines(log.read_text(errors="replace")) for log in logs if log.stat().st_mtime >= since]
        return f"Its log in {self.folder} ends with: {' | '.join(words)}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a port of 127.0.0.1 is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-5:])
