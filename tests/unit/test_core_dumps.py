"""A process that holds keys leaves no copy of its memory."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, resource
from worker.core_dumps import forbid_core_dumps
forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_no_core_is_written() -> None:
    """The limit is 0, soft and hard, and the kernel is told that the process may not be dumped (PR_GET_DUMPABLE)."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[0] == "(0, 0) 0"
