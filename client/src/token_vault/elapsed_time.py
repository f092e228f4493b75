"""A monotonic clock that includes time while suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

# `time.monotonic` stops then, so a lease or an estimate of another clock would seem valid after the suspension.
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

elapsed: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Return seconds since an arbitrary moment."""
