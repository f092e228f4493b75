"""Redis' failures in words, without what was sent."""

from __future__ import annotations

import re

import redis

_BY_TEXT = (
    ("WRONGPASS|NOAUTH|invalid username-password|no password is set", "it refuses the user or password"),
    ("Name or service not known|No address associated|name resolution", "its host has no address"),
    ("Connection refused|No such file", "the connection is refused"),
    ("MISCONF", "it cannot save to its disk, and takes no writes"),
    ("SSL|certificate|TLS", "the connection fails at TLS"),
)
_BY_TYPE = (
    (redis.ReadOnlyError, "it is a replica: name the primary"),
    (redis.OutOfMemoryError, "its memory is full: raise maxmemory, or see what else is in it"),
    (redis.BusyLoadingError, "it is still loading its data"),
    (redis.AuthenticationError, "it refuses the user or password"),
    (redis.TimeoutError, "nothing came back in time"),
)


def describe(error: BaseException) -> str:
    """Say what a failure of Redis means, and its fix."""
    for kind, meaning in _BY_TYPE:
        if isinstance(error, kind):
            return meaning
    text = str(error)
    return next(
        (meaning for pattern, meaning in _BY_TEXT if re.search(pattern, text)),
        type(error).__name__,
    )
