"""What happened in which process, by the machine's clock.

Each process appends to a file of its own; a line is one write, which a kill does not tear.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Journal:
    """One process's lines.

    Args:
        folder: of all processes' journals.
        name: of this process's file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self._descriptor = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._clock = time.time  # as it was before a process's clock was skewed

    def write(self, what: str, **fields: Any) -> None:
        """Append a line: what happened, and when."""
        line = json.dumps({"what": what, "at": self._clock(), "pid": os.getpid()} | fields) + "\n"
        os.write(self._descriptor, line.encode())


def read(folder: Path) -> Iterator[Line]:
    """Read all processes' lines.

    Raises:
        ValueError: a line is torn.
    """
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())
