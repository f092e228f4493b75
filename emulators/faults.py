"""Planted faults.

The next n requests below a path go wrong in a given way.
"""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

CARRIED_OUT = {"empty200", "malformed_json", "cut", "reset_after", "hang", "delay", "slow", "override"}
NOT_CARRIED_OUT = {"html200", "reset_before"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of going wrong.

    `argument` is what follows the colon in its name.
    """

    name: str  # "status" for an HTTP status code
    argument: str = ""
    carried_out: bool = False  # the request takes effect before it goes wrong
    status: int = 500
    retry_after: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # merged into an error's body


def read_fault(
    kind: str, *, retry_after: int | None, carried_out: bool | None, extra: dict[str, Any] | None
) -> Fault:
    """Read a fault by its name.

    Raises ValueError when there is none of that name.
    """
    name, _, argument = kind.partition(":")
    status = 500
    if name.isdecimal():
        name, status = "status", int(name)
    elif name not in CARRIED_OUT | NOT_CARRIED_OUT | {"error"}:
        raise ValueError(f"no fault is called {kind!r}")
    if name == "override" and not isinstance(json.loads(argument), dict):
        raise ValueError("override takes a JSON object")
    if name in ("delay", "slow"):
        float(argument)
    carried = name in CARRIED_OUT if carried_out is None else carried_out
    return Fault(name, argument, carried, status, retry_after, extra or {})


class Faults:
    """The planted faults, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, deque[Fault]]] = []

    def plant(self, target: str, n: int, fault: Fault) -> None:
        """Plant a fault for the next `n` requests below `target`."""
        self._waiting.append((unquote(target).rstrip("/"), deque([fault] * n)))

    def take(self, path: str) -> Fault | None:
        """Find the fault for a request, and use it up."""
        for target, faults in self._waiting:
            if faults and (path == target or path.startswith(target + "/")):
                fault = faults.popleft()
                if not faults:
                    self._waiting = [(where, rest) for where, rest in self._waiting if rest]
                return fault
        return None

    def clear(self) -> None:
        """Forget all that have not happened."""
        self._waiting.clear()
