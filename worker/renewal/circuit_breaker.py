"""Opens and closes a connection's circuit, as the provider's answers give reason to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import structlog

from worker.providers import CLIENT_REFUSED, RefusalBlame, Refused
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.outcome import MAX_UNKNOWN_REFUSALS
from worker.vault.claims import Claim
from worker.vault.connections import circuits
from worker.vault.connections.circuits import Circuit
from worker.vault.db.database import Vault

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """The circuits of one vault's connections.

    Args:
        vault: where they are.
        jitter: 0 to 1, uniform; spreads the probes.
    """

    def __init__(self, vault: Vault, jitter: Callable[[], float]) -> None:
        self._vault = vault
        self._jitter = jitter

    async def renewed(self, limiter: ConnectionLimiter, clock: Callable[[], datetime]) -> None:
        """A renewal: whatever stood against the connection is over."""
        connection = limiter.connection
        if connection.circuit != Circuit() or limiter.outage or limiter.suspicious:
            limiter.suspicious = limiter.outage = False
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        if connection.circuit.is_open:
            log.info("connection.mended", connection=connection.name)

    async def answered(
        self, limiter: ConnectionLimiter, refused: Refused, clock: Callable[[], datetime]
    ) -> None:
        """A verdict on one grant: the provider answers for itself, and takes the client."""
        connection = limiter.connection
        if connection.circuit.blame == "nobody":
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
            return
        if connection.circuit.blame == "operator" and refused.blame is RefusalBlame.USER:
            # Some may look at the token before the client: not proof enough to let all in, so the next one is asked.
            await circuits.probe_again(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        await self._count_back(limiter)

    async def away(self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime) -> None:
        """A call without an answer of the provider's own; the circuit opens after several in a row."""
        limiter.outage = True
        if await circuits.count_away(self._vault, tenant=claim.key.tenant, name=claim.key.connection):
            await self._break(limiter, claim, refused, now, blame="nobody")

    async def refused(
        self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime
    ) -> bool:
        """A refusal of the client, perhaps; returns whether it is, and the circuit has opened."""
        await self._count_back(limiter)  # an answer of its own, whomever it blames
        if not await self._is_the_connections(limiter, claim, refused):
            return False
        await self._break(limiter, claim, refused, now, blame="operator")
        return True

    async def _count_back(self, limiter: ConnectionLimiter) -> None:
        connection = limiter.connection
        if connection.circuit.failed_calls or limiter.outage:
            limiter.outage = False
            await circuits.count_back(self._vault, tenant=connection.tenant, name=connection.name)

    async def _is_the_connections(self, limiter: ConnectionLimiter, claim: Claim, refused: Refused) -> bool:
        """Whether a refusal is the connection's trouble: some words may also be provoked by one odd grant.

        For those it takes another grant that is refused as well, or the same one again and again, with no
        renewal of the connection in between.
        """
        if refused.code in CLIENT_REFUSED:
            return True
        limiter.suspicious = True
        noted = await circuits.suspect(
            self._vault, tenant=claim.key.tenant, name=claim.key.connection, grant_id=claim.id
        )
        return noted is not None and (noted != claim.id or claim.attempts + 1 >= MAX_UNKNOWN_REFUSALS)

    async def _break(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        refused: Refused,
        now: datetime,
        *,
        blame: Literal["operator", "nobody"],
    ) -> None:
        limiter.circuit_opened = True
        opened = await circuits.open_circuit(
            self._vault,
            tenant=claim.key.tenant,
            name=claim.key.connection,
            fingerprint=limiter.connection.fingerprint,
            code=refused.code,
            blame=blame,
            began=claim.claimed_at,
            now=now,
            jitter=self._jitter(),
            retry_after=refused.retry_after,
        )
        if opened is not None:
            log.warning("connection.broken", connection=claim.key.connection, code=refused.code, blame=blame)
