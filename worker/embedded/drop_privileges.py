"""Replaces this process by another program, without root's rights.

It is a script, run by a new interpreter, because a process with threads must not do this between fork and exec. It
imports only the standard library. The program and its arguments follow its own arguments::

    python -I launch.py PIDFILE|- UID:GID:CAPABILITY|- PROGRAM ARGUMENT…

The process id is written to PIDFILE before the program begins.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# linux/prctl.h, linux/securebits.h and linux/capability.h; stable parts of the kernel's interface
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 1 << 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


def main(pid_file: str, account: str, program: str, *arguments: str) -> None:
    """Become the program. Does not return.

    Raises:
        OSError: that is not possible.
    """
    os.umask(0o077)
    if pid_file != "-":
        Path(pid_file).write_text(str(os.getpid()))
    if account != "-":
        _become(*map(int, account.split(":")))
    os.execv(program, [program, *arguments])  # noqa: S606  # no shell is wanted


def _become(uid: int, gid: int, capability: int) -> None:
    """Become an unprivileged user that keeps one capability.

    With it the program can pass closed parent folders.

    NO_SETUID_FIXUP has two effects: the change of user keeps the capabilities, and access(2), by which Postgres looks
    for its files, takes them into account (see capabilities(7)).
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def done(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def prctl(option: int, *arguments: int) -> None:
        padded = [*arguments, 0, 0, 0, 0][:4]
        done(libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded)))

    prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    low, high = (1 << capability) & 0xFFFFFFFF, (1 << capability) >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)  # effective, permitted, inheritable
    done(libc.capset(header, sets))
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        fix = "Start token-vault as an ordinary user, or set DATABASE_URL and REDIS_URL."
        sys.exit(f"{sys.argv[3]} cannot be started: {error}." + (f" {fix}" if sys.argv[2] != "-" else ""))
