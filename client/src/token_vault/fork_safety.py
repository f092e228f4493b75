"""What a forked process must not share with its parent.

These are connections, locks that were held, and threads that are gone.

Servers that load an app before they fork (gunicorn with ``--preload``, Celery's prefork pool) make one reader for
all of their processes. Over a connection that two of them share, one reads the other's answer: another user's token.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Beginner(Protocol):
    """What begins anew in each process."""

    def begin(self) -> None:
        """Begin with nothing open."""


_known: WeakSet[Beginner] = WeakSet()
_parents: list[object] = []


def begin_in_each_process(one: Beginner) -> None:
    """Let it begin here, and in each forked process."""
    one.begin()
    _known.add(one)


def _in_child() -> None:
    for one in list(_known):
        # What the parent has open is not collected here, which would warn of it.
        _parents.append(dict(vars(one)))
        one.begin()


if hasattr(os, "register_at_fork"):  # where processes can fork at all
    os.register_at_fork(after_in_child=_in_child)
