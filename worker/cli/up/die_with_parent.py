"""Become another program that ends with its parent process.

Run as a script by a fresh interpreter, so that nothing here happens between a fork and an exec of a process with
threads. It imports the standard library alone::

    python -I -S die_with_parent.py PARENT PROGRAM ARGUMENT…
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; see prctl(2)


def main(parent: str, program: str, *arguments: str) -> None:
    """Become the program; returns only by an OSError."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the process that wanted this program has ended")
    os.execv(program, [program, *arguments])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
