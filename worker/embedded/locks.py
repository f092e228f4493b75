"""Locks by flock(2).

The kernel releases them when their process ends, even by a kill.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open or make a lock file.

    The caller closes the descriptor.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take the lock without waiting; return whether it was free."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def acquire(path: Path) -> int | None:
    """Take the lock exclusively without waiting.

    Returns its descriptor; None if another process has the lock.

    Closing the descriptor releases the lock, unless a child process has inherited it: then the lock lasts as long as
    that child and its children.
    """
    descriptor = open_lock(path)
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Whether a process has the lock exclusively.

    Does not wait, and does not create the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the lock, and hold it within the block."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        release(descriptor)


def release(descriptor: int) -> None:
    """Release a lock and close it.

    Also if a forked child still has the descriptor.
    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
