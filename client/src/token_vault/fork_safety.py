"""Resets objects in forked processes.

A forked process must not use its parent's connections, locks and threads. Servers that load an app before they fork
(gunicorn with ``--preload``, Celery's prefork pool) create one reader for all their processes. Two processes that
share a connection read each other's answers: another user's token.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ProcessLocal(Protocol):
    """An object with state of its own in each process."""

    def begin(self) -> None:
        """Set the state to nothing open."""


_known: WeakSet[ProcessLocal] = WeakSet()
_parents_states: list[object] = []


def begin_in_each_process(one: ProcessLocal) -> None:
    """Call ``begin`` now, and again in each forked process."""
    one.begin()
    _known.add(one)


def _begin_in_child() -> None:
    for one in list(_known):
        # Kept alive: garbage collection of the parent's open connections would warn, and could close them.
        _parents_states.append(dict(vars(one)))
        one.begin()


if hasattr(os, "register_at_fork"):  # where processes can fork at all
    os.register_at_fork(after_in_child=_begin_in_child)
