"""Opens and closes circuits as the providers' answers demand."""

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
from worker.vault.vault import Vault

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

    async def record_renewal(self, limiter: ConnectionLimiter, clock: Callable[[], datetime]) -> None:
        """Close the circuit and drop suspicions: a grant was renewed."""
        connection = limiter.connection
        if connection.circuit != Circuit() or limiter.outage or limiter.suspicious:
            limiter.suspicious = limiter.outage = False
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        if connection.circuit.is_open:
            log.info("connection.mended", connection=connection.name)

    async def record_verdict(
        self, limiter: ConnectionLimiter, refused: Refused, clock: Callable[[], datetime]
    ) -> None:
        """Note that the provider answers and takes the client."""
        connection = limiter.connection
        if connection.circuit.blame == "nobody":
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
            return
        if connection.circuit.blame == "operator" and refused.blame is RefusalBlame.USER:
            # Some providers look at the token before the client: that does not prove the client good. The next
            # grant is tried at once, as another probe.
            await circuits.release_probe(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        await self._forget_failed_calls(limiter)

    async def record_outage(
        self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime
    ) -> None:
        """Count a failed call; several in a row open it.

        Failed is a call without an answer of the provider's own.
        """
        limiter.outage = True
        if await circuits.record_outage(self._vault, tenant=claim.key.tenant, name=claim.key.connection):
            await self._open(limiter, claim, refused, now, blame="nobody")

    async def record_refusal(
        self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime
    ) -> bool:
        """Open the circuit if the client is refused.

        Returns:
            Whether it is; else the refusal may be this grant's own trouble.
        """
        await self._forget_failed_calls(limiter)  # whoever is to blame, the provider answers for itself
        if not await self._is_client_refused(limiter, claim, refused):
            return False
        await self._open(limiter, claim, refused, now, blame="operator")
        return True

    async def _forget_failed_calls(self, limiter: ConnectionLimiter) -> None:
        connection = limiter.connection
        if connection.circuit.failed_calls or limiter.outage:
            limiter.outage = False
            await circuits.clear_outage(self._vault, tenant=connection.tenant, name=connection.name)

    async def _is_client_refused(self, limiter: ConnectionLimiter, claim: Claim, refused: Refused) -> bool:
        """Return whether a refusal is about the connection's client.

        One odd grant can provoke some of the codes too. These count only once another grant is refused as well, or
        the same one again and again, with no renewal of the connection in between.
        """
        if refused.code in CLIENT_REFUSED:
            return True
        limiter.suspicious = True
        suspect = await circuits.record_suspect(
            self._vault, tenant=claim.key.tenant, name=claim.key.connection, grant_id=claim.id
        )
        return suspect is not None and (suspect != claim.id or claim.attempts + 1 >= MAX_UNKNOWN_REFUSALS)

    async def _open(
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
            attempted_at=claim.claimed_at,
            now=now,
            jitter=self._jitter(),
            retry_after=refused.retry_after,
        )
        if opened is not None:
            log.warning("connection.broken", connection=claim.key.connection, code=refused.code, blame=blame)
