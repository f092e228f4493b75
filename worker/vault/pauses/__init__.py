"""Pauses: what the operator has stopped, and why."""

from worker.vault.pauses.pauses import (
    EVERYTHING,
    PAUSED,
    EndingTokens,
    Pause,
    PauseScope,
    check_tenant,
    count_ending,
    count_under_way,
    end,
    end_over,
    find,
    list_pauses,
    list_writers,
    start,
)

__all__ = [
    "EVERYTHING",
    "PAUSED",
    "EndingTokens",
    "Pause",
    "PauseScope",
    "check_tenant",
    "count_ending",
    "count_under_way",
    "end",
    "end_over",
    "find",
    "list_pauses",
    "list_writers",
    "start",
]
