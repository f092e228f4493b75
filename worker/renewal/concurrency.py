"""How many calls one run may have under way, connection by connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from worker.resolved_connections import ResolvedConnection
from worker.vault.claims import Claim

# Renewals under way for one connection at a time: a slow provider leaves room to the others.
MAX_CALLS_PER_CONNECTION = 32
# A call that takes longer, in seconds, hangs: it leaves its room in the window to others, and its connection gets no more.
STALLED_SECONDS = 5.0

Key = tuple[str, str]
"""A connection: its tenant and its name."""


@dataclass(slots=True)
class ConnectionLimiter:
    """One connection during one run.

    Its first call goes alone, so that a wrong secret costs one call. Each answer of the provider's own doubles the
    room for further calls, each failure halves it.

    Attributes:
        capacity: how many calls may be under way.
        suspicious: whether a refusal in this run may have been the connection's trouble.
        outage: whether the provider has left a call of this run without an answer of its own.
        wait_in_doubt: whether a token in doubt waits until it is safe to use; an operator does not wait.
        requested: whether somebody asked for this renewal.
        observed: what answers of this run have shown of the provider.
        circuit_opened: whether this run has opened the circuit.
        exhausted: whether this run claims no more.
        started_at: calls under way: when each began, by grant, in seconds of the event loop's clock.
    """

    connection: ResolvedConnection
    capacity: int = 1
    suspicious: bool = False
    outage: bool = False
    wait_in_doubt: bool = True
    requested: bool = False
    observed: dict[str, Any] | None = None
    circuit_opened: bool = False
    exhausted: bool = False
    started_at: dict[int, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self.started_at)

    def stalled(self, at: float) -> int:
        """Calls under way that hang, at a time of the event loop's clock."""
        return sum(at - began > STALLED_SECONDS for began in self.started_at.values())

    def grow(self) -> None:
        """Double the room, after an answer."""
        self.capacity = min(self.capacity * 2, MAX_CALLS_PER_CONNECTION)

    def shrink(self) -> None:
        """Halve the room, after a failure."""
        self.capacity = max(self.capacity // 2, 1)


def with_capacity(limiters: dict[Key, ConnectionLimiter]) -> dict[Key, ConnectionLimiter]:
    """The connections that may have more to renew, and room for a worthwhile number of calls."""
    return {
        key: limiter
        for key, limiter in limiters.items()
        if not limiter.exhausted
        and not limiter.circuit_opened
        and limiter.calls <= limiter.capacity // 2
        and not limiter.stalled(loop_time())
    }


def key_of(claim: Claim) -> Key:
    """The connection of a claim."""
    return claim.key.tenant, claim.key.connection


def loop_time() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()
