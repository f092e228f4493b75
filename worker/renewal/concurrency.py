"""How many calls one run may make, connection by connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from worker.resolved_connections import ResolvedConnection
from worker.vault.claims import Claim

# Concurrent calls of one connection: a slow provider leaves capacity to the others.
MAX_CALLS_PER_CONNECTION = 32
# A call that takes longer has stalled: its place among all calls goes to others, and its connection starts no more.
STALLED_SECONDS = 5.0

Key = tuple[str, str]
"""A connection: its tenant and its name."""


@dataclass(slots=True)
class ConnectionLimiter:
    """Bounds the concurrent calls of one connection during one run.

    The first call goes alone, so that a wrong secret costs one call. Each answer of the provider's own doubles the
    capacity, each failure halves it.

    Attributes:
        capacity: how many calls may be under way at a time.
        suspected: whether a refusal of this run stands against the connection.
        renewed: whether a grant was renewed in this run.
        wait_in_doubt: whether a token in doubt waits until it is safe to use; an operator does not wait.
        requested: whether somebody asked for this renewal.
        observed: what answers of this run have shown of the provider.
        circuit_opened: whether this run has opened the circuit.
        exhausted: whether this run claims no more.
        started_at: when each call under way began, by grant, in seconds of the event loop's clock.
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
        """Count the calls that have stalled by this loop time."""
        return sum(at - began > STALLED_SECONDS for began in self.started_at.values())

    def grow(self) -> None:
        """Double the capacity, after an answer."""
        self.capacity = min(self.capacity * 2, MAX_CALLS_PER_CONNECTION)

    def shrink(self) -> None:
        """Halve the capacity, after a failure."""
        self.capacity = max(self.capacity // 2, 1)


def with_capacity(limiters: dict[Key, ConnectionLimiter]) -> dict[Key, ConnectionLimiter]:
    """Return the connections with half their capacity free.

    Left out are those that have nothing more to claim, whose circuit has opened, or with a stalled call.
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
