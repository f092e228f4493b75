"""How many calls one run may have under way, connection by connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from worker.resolved_connections import ResolvedConnection
from worker.vault.claims import Claim

# Renewals under way for one connection at a time: a slow provider leaves room to the others.
PER_CONNECTION = 32
# A call that takes longer, in seconds, hangs: it leaves its room in the window to others, and its connection gets no more.
HANGING = 5.0

Key = tuple[str, str]
"""A connection: its tenant and its name."""


@dataclass(slots=True)
class ConnectionLimiter:
    """One connection during one run.

    Its first call goes alone, so that a wrong secret costs one call. Each answer of the provider's own doubles the
    room for further calls, each failure halves it.

    Attributes:
        slots: how many calls may be under way.
        suspicious: whether a refusal in this run may have been the connection's trouble.
        away: whether the provider has left a call of this run without an answer of its own.
        hold_doubt: whether a token in doubt waits until it is safe to use; an operator does not wait.
        wanted: whether somebody asked for this renewal.
        learned: what answers of this run have shown of the provider.
        broken: whether this run has opened the circuit.
        done: whether this run claims no more.
        began: calls under way: when each began, by grant, in seconds of the event loop's clock.
    """

    connection: ResolvedConnection
    slots: int = 1
    suspicious: bool = False
    away: bool = False
    hold_doubt: bool = True
    wanted: bool = False
    learned: dict[str, Any] | None = None
    broken: bool = False
    done: bool = False
    began: dict[int, float] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self.began)

    def hanging(self, at: float) -> int:
        """Calls under way that hang, at a time of the event loop's clock."""
        return sum(at - began > HANGING for began in self.began.values())

    def grow(self) -> None:
        """Double the room, after an answer."""
        self.slots = min(self.slots * 2, PER_CONNECTION)

    def shrink(self) -> None:
        """Halve the room, after a failure."""
        self.slots = max(self.slots // 2, 1)


def with_capacity(lanes: dict[Key, ConnectionLimiter]) -> dict[Key, ConnectionLimiter]:
    """The connections that may have more to renew, and room for a worthwhile number of calls."""
    return {
        key: lane
        for key, lane in lanes.items()
        if not lane.done
        and not lane.broken
        and lane.in_flight <= lane.slots // 2
        and not lane.hanging(loop_time())
    }


def key_of(claim: Claim) -> Key:
    """The connection of a claim."""
    return claim.key.tenant, claim.key.connection


def loop_time() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()
