"""Limits the concurrent calls of each connection in a run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from worker.resolved_connections import ResolvedConnection
from worker.vault.claims import Claim

# Concurrent calls of one connection, so that a slow provider leaves capacity for the others.
MAX_CALLS_PER_CONNECTION = 32
# A call that takes longer has stalled: it no longer counts against the limit of all calls, and its connection starts no
# new ones.
STALLED_SECONDS = 5.0

Key = tuple[str, str]
"""A connection: its tenant and its name."""


@dataclass(slots=True)
class ConnectionLimiter:
    """Bounds the concurrent calls of one connection during one run.

    The first call is made alone, so that a wrong secret costs one call. Each answer from the provider itself doubles the
    capacity, each failure halves it.

    Attributes:
        capacity: how many calls may be under way at a time.
        suspected: whether a refusal of this run is evidence against the connection.
        renewed: whether a grant was renewed in this run.
        wait_in_doubt: whether a token in doubt waits until its use is safe; False for an operator's forced renewal.
        requested: whether this is a renewal on demand.
        observed: the observations that this run recorded last.
        circuit_opened: whether this run has opened the circuit.
        exhausted: whether this run claims no more grants of the connection.
        started_at: when each call under way began, by grant id, in seconds of the event loop's clock.
    """

    connection: ResolvedConnection
    capacity: int = 1
    suspected: bool = False
    renewed: bool = False
    wait_in_doubt: bool = True
    requested: bool = False
    observed: dict[str, Any] | None = None
    circuit_opened: bool = False
    exhausted: bool = False
    started_at: dict[int, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return len(self.started_at)

    def stalled(self, at: float) -> int:
        """Count the stalled calls.

        Args:
            at: the current time of the event loop's clock.
        """
        return sum(at - began > STALLED_SECONDS for began in self.started_at.values())

    def grow(self) -> None:
        """Double the capacity, after an answer."""
        self.capacity = min(self.capacity * 2, MAX_CALLS_PER_CONNECTION)

    def shrink(self) -> None:
        """Halve the capacity, after a failure."""
        self.capacity = max(self.capacity // 2, 1)


def with_capacity(limiters: dict[Key, ConnectionLimiter]) -> dict[Key, ConnectionLimiter]:
    """Return the connections with half their capacity free.

    Without those that are exhausted, whose circuit was opened, or that have a stalled call.
    """
    return {
        key: limiter
        for key, limiter in limiters.items()
        if not limiter.exhausted
        and not limiter.circuit_opened
        and limiter.calls <= limiter.capacity // 2
        and not limiter.stalled(loop_time())
    }


def key_of(claim: Claim) -> Key:
    """Return the connection of a claim."""
    return claim.key.tenant, claim.key.connection


def loop_time() -> float:
    """Return the event loop's time, in seconds."""
    return asyncio.get_running_loop().time()
