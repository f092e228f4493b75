"""The life of one embedded server: started by the first command, shared by all, stopped by the last.

Three lock files in the server's folder carry it, so that no process id has to be trusted:

- ``start.lock`` is held, exclusively, while a command starts or stops the server: one at a time.
- ``users.lock`` is held, shared, by each command that uses the server. Who can take it exclusively on
  leaving is the last.
- ``alive.lock`` is inherited by the server and its children, and so is held exactly as long as any of
  them lives. Where it is free, whatever the folder says of a running server is out of date.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_SH
from pathlib import Path
from typing import ClassVar

from worker.embedded import launch, locks
from worker.errors import ConfigurationError
from worker.tokens import Secret

START_SECONDS = 60
STOP_SECONDS = 30
_POLL_SECONDS = 0.02

# The servers get nothing of the command's environment: it may hold client secrets and keys.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server listens on 127.0.0.1, and its password."""

    port: int
    password: Secret


class Server(ABC):
    """One server under the home folder. Subclasses say what is particular to Postgres and Redis."""

    name: ClassVar[str]
    setting: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.folder = home / self.name.lower()
        self.data = self.folder / "data"
        self.durable = durable

    @abstractmethod
    def program(self) -> Path:
        """Return the server's program; ConfigurationError where there is none."""

    @abstractmethod
    def prepare(self, access: Access, alive: int, *, forgotten: bool) -> None:
        """Make data and configuration ready for a start; forgotten where the password is a new one."""

    @abstractmethod
    def arguments(self, access: Access) -> list[str]:
        """Return the program's arguments; none of them is secret."""

    @abstractmethod
    def answers(self, access: Access) -> bool:
        """Whether the server takes this password and is ready for work."""

    @abstractmethod
    def url(self, access: Access) -> Secret:
        """Return the address with the password in it."""

    def moved(self, access: Access) -> Access:
        """Return access for another port, where the old one is taken."""
        return Access(_free_port(), access.password)

    @contextmanager
    def running(self) -> Iterator[tuple[Secret, bool]]:
        """Give the server's URL, and whether this call started it; the last user out stops it.

        Raises ConfigurationError where the server cannot be started, or does not stop.
        """
        own_folder(self.folder, os.geteuid())
        with locks.alone(self.folder / "start.lock"):
            users = locks.open_lock(self.folder / "users.lock")
            locks.take(users, LOCK_SH)  # nobody takes it exclusively without start.lock
            try:
                access, started = self._ensure()
            except BaseException:
                self._leave(users)
                raise
        try:
            yield self.url(access), started
        finally:
            with locks.alone(self.folder / "start.lock"):
                self._leave(users)

    def find(self) -> Secret | None:
        """Return the URL where the server runs and answers; changes nothing."""
        access = self._known()
        if access is None or not locks.is_held(self.folder / "alive.lock") or not self.answers(access):
            return None
        return self.url(access)

    def run(self, program: Path, *arguments: str, alive: int, stdin: str = "", seconds: float) -> None:
        """Run one of the server's own programs to its end; ConfigurationError with its words if it fails."""
        done = subprocess.run(  # noqa: S603  # paths of installed programs, no shell
            self._launcher("-", program, arguments),
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
        if done.returncode != 0:
            raise ConfigurationError(
                f"{program.name} for the embedded {self.name} failed: {_end(done.stderr)}"
            )

    def account(self) -> tuple[int, int]:
        """Return the user and group that the server runs as: one's own, or nobody's where one is root."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            raise self._no_root("there is no user 'nobody'") from None
        return nobody.pw_uid, nobody.pw_gid

    def _ensure(self) -> tuple[Access, bool]:
        """Return access to the running server, and whether it was started here.

        One loop serves a server found running, one that is still starting or stopping, and one that lost
        its port to another program between the choice and the start.
        """
        deadline = time.monotonic() + START_SECONDS
        started = False
        while time.monotonic() < deadline:
            access = self._known()
            alive = locks.claim(self.folder / "alive.lock")
            if alive is None:
                if access is not None and self.answers(access):
                    return access, started
                time.sleep(_POLL_SECONDS)
                continue
            try:
                if started and access is not None and _is_free(access.port):
                    raise ConfigurationError(
                        f"the embedded {self.name} ended while starting: {self._log_end()}"
                    )
                self._start(access, alive)
                started = True
            finally:
                os.close(alive)  # the server holds its own copy now
        raise ConfigurationError(
            f"the embedded {self.name} under {self.folder} runs (pid {self._pid() or 'unknown'}) but did not "
            f"answer within {START_SECONDS} s; end that process and try again. {self._log_end()}"
        )

    def _start(self, known: Access | None, alive: int) -> None:
        access = known or Access(_free_port(), Secret(secrets.token_urlsafe(32)))
        if not _is_free(access.port):
            access = self.moved(access)
        self.prepare(access, alive, forgotten=known is None)
        # after prepare: a password is only noted once the server's data has it
        noted = {"port": access.port, "password": access.password.reveal()}
        write_private(self.folder / "access.json", json.dumps(noted))
        (self.folder / "server.pid").unlink(missing_ok=True)
        program = self.program()
        log = self.folder / "server.log"
        with suppress(FileNotFoundError):
            log.replace(self.folder / "server.log.1")
        with log.open("wb") as output:
            log.chmod(0o600)
            subprocess.run(  # noqa: S603  # likewise
                self._launcher(str(self.folder / "server.pid"), program, self.arguments(access)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=[alive],
                start_new_session=True,  # a Ctrl-C is for the command, which then stops its servers in order
                check=False,
            )

    def _leave(self, users: int) -> None:
        try:
            if locks.take(users):
                self._stop()
        finally:
            locks.release(users)

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        told: int | None = None
        while (alive := locks.claim(self.folder / "alive.lock")) is None:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the embedded {self.name} under {self.folder} (pid {self._pid() or 'unknown'}) "
                    f"did not stop within {STOP_SECONDS} s. {self._log_end()}"
                )
            pid = self._pid()
            if pid is not None and pid != told:
                with suppress(ProcessLookupError):
                    os.kill(pid, self.stop_signal)
                told = pid
            time.sleep(_POLL_SECONDS)
        os.close(alive)

    def _launcher(self, pid_file: str, program: Path, arguments: Sequence[str]) -> list[str]:
        account = (
            "-" if os.geteuid() != 0 else ":".join(map(str, (*self.account(), self._capability(program))))
        )
        return [sys.executable, "-I", "-S", launch.__file__, pid_file, account, str(program), *arguments]

    def _capability(self, program: Path) -> int:
        """Return the one capability that lets the server pass folders which only root may enter.

        Reading and searching is all it needs, unless the program itself was installed for root alone.
        """
        try:
            status = Path("/proc/self/status").read_text()
        except FileNotFoundError:
            raise self._no_root("this system has no capabilities") from None
        permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
        wanted = [_CAP_DAC_READ_SEARCH] if program.stat().st_mode & stat.S_IXOTH else []
        for capability in [*wanted, _CAP_DAC_OVERRIDE]:
            if permitted >> capability & 1:
                return capability
        raise self._no_root("neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE is granted")

    def _no_root(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"the embedded {self.name} does not run as root, and cannot be given to an unprivileged user here: "
            f"{reason}. Start token-vault as an ordinary user, or set {self.setting}."
        )

    def _known(self) -> Access | None:
        try:
            noted = json.loads((self.folder / "access.json").read_text())
            return Access(noted["port"], Secret(noted["password"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except PermissionError:
            raise ConfigurationError(f"{self.folder} belongs to another user") from None

    def _pid(self) -> int | None:
        try:
            return int((self.folder / "server.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _log_end(self) -> str:
        logs = [
            self.folder / "server.log",
            *sorted(self.data.glob("log/*"), key=lambda log: log.stat().st_mtime)[-1:],
        ]
        words = " ".join(_end(log.read_text(errors="replace")) for log in logs if log.exists())
        return f"Its log in {self.folder} ends with: {words}"


def own_folder(path: Path, uid: int, gid: int = -1) -> None:
    """Make a folder that its owner alone may enter, or see to it that an existing one is such.

    Raises ConfigurationError where it belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if uid != os.geteuid() and path.lstat().st_uid == os.geteuid():
            os.chown(path, uid, gid, follow_symlinks=False)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
            raise ConfigurationError(
                f"{path} is not a folder of user {uid} (it belongs to user {found.st_uid}): "
                "give it back, or set TOKEN_VAULT_HOME to another folder"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made private: {error.strerror}") from error


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read: the old text or the new one is there, never a part."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    staged.replace(path)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, if it is there."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _end(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-5:])
