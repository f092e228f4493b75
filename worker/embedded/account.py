"""The user that the servers run as.

It is the user who starts them, or ``nobody`` if that is root.

Postgres refuses to run as root, and Redis should not. The folders above the home may be closed to everybody but root,
so the servers keep the one capability with which they can pass them.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from token_vault.errors import ConfigurationError
from worker.embedded import drop_privileges

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def account() -> tuple[int, int]:
    """Return the servers' user id and group id.

    Raises:
        ConfigurationError: this process is root's, and there is no user ``nobody``.
    """
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise _not_as_root("there is no user 'nobody'") from None
    return nobody.pw_uid, nobody.pw_gid


def launcher(pid_file: str, program: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a program as that user.

    Args:
        pid_file: the program's process id is written to it; "-" for none.
        program: its path.
        arguments: the program's.

    Raises:
        ConfigurationError: this process is root's, but lacks the capability that the program needs.
    """
    become = "-"
    if os.geteuid() == 0:
        become = ":".join(map(str, (*account(), _capability(program))))
    return [sys.executable, "-I", "-S", drop_privileges.__file__, pid_file, become, str(program), *arguments]


def _capability(program: Path) -> int:
    """Return the capability to pass folders closed by root.

    The one for reading and searching is enough, unless only root may execute the program.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        raise _not_as_root("this system has no capabilities") from None
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    wanted = [_CAP_DAC_READ_SEARCH] if program.stat().st_mode & stat.S_IXOTH else []
    for capability in [*wanted, _CAP_DAC_OVERRIDE]:
        if permitted >> capability & 1:
            return capability
    raise _not_as_root("neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE is granted")


def _not_as_root(reason: str) -> ConfigurationError:
    return ConfigurationError(
        "the embedded servers do not run as root, and cannot be given to an unprivileged user here: "
        f"{reason}. Start token-vault as an ordinary user, or set DATABASE_URL and REDIS_URL."
    )
