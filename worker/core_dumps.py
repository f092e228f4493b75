"""Forbids core dumps: the memory holds keys and tokens."""

from __future__ import annotations

import ctypes
import resource
import sys

# prctl(2): the kernel writes no core file whatever the limit, and other processes of this user cannot read the memory.
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Forbid core files, and debuggers of the same user.

    A limit of 0 alone is not enough where ``core_pattern`` names a program. Programs that this process starts inherit
    the limit, but not the second protection.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
