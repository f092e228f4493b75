"""Forbids core dumps: the memory holds keys and tokens."""

from __future__ import annotations

import ctypes
import resource
import sys

# prctl(2): the kernel dumps no core whatever the limit says, and no other process of this user reads the memory.
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Have no core written, and no debugger attached.

    A limit of 0 alone is not enough where ``core_pattern`` names a program. A program that this process starts begins
    with the limit and without the second protection.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
