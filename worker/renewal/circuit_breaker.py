"""Opens and closes a connection's circuit, as the provider's answers give reason to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import structlog

from worker.providers import CLIENT_REFUSED, RefusalBlame, Refused
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.outcome import UNKNOWN_TRIES
from worker.vault.claims import Claim
from worker.vault.connections import circuits
from worker.vault.db.database import Vault

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """The circuits of one vault's connections.

    Args:
        vault: where they are.
        chance: 0 to 1, uniform; spreads the probes.
    """

    def __init__(self, vault: Vault, chance: Callable[[], float]) -> None:
        self._vault = vault
        self._chance = chance

    async def renewed(self, lane: ConnectionLimiter, clock: Callable[[], datetime]) -> None:
        """A renewal: whatever stood against the connection is over."""
        connection = lane.connection
        if (
            connection.circuit_opened_at is not None
            or connection.suspect_grant is not None
            or connection.away
            or lane.away
            or lane.suspicious
        ):
            lane.suspicious = lane.away = False
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        if connection.circuit_opened_at is not None:
            log.info("connection.mended", connection=connection.name)

    async def answered(
        self, lane: ConnectionLimiter, refused: Refused, clock: Callable[[], datetime]
    ) -> None:
        """A verdict on one grant: the provider answers for itself, and takes the client."""
        connection = lane.connection
        if connection.circuit_blame == "nobody":
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
            return
        if connection.circuit_blame == "operator" and refused.blame is RefusalBlame.USER:
            # Some may look at the token before the client: not proof enough to let all in, so the next one is asked.
            await circuits.probe_again(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        await self._count_back(lane)

    async def away(self, lane: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime) -> None:
        """A call without an answer of the provider's own; the circuit opens after several in a row."""
        lane.away = True
        if await circuits.count_away(self._vault, tenant=claim.key.tenant, name=claim.key.connection):
            await self._break(lane, claim, refused, now, blame="nobody")

    async def refused(self, lane: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime) -> bool:
        """A refusal of the client, perhaps; returns whether it is, and the circuit has opened."""
        await self._count_back(lane)  # an answer of its own, whomever it blames
        if not await self._is_the_connections(lane, claim, refused):
            return False
        await self._break(lane, claim, refused, now, blame="operator")
        return True

    async def _count_back(self, lane: ConnectionLimiter) -> None:
        connection = lane.connection
        if connection.away or lane.away:
            lane.away = False
            await circuits.count_back(self._vault, tenant=connection.tenant, name=connection.name)

    async def _is_the_connections(self, lane: ConnectionLimiter, claim: Claim, refused: Refused) -> bool:
        """Whether a refusal is the connection's trouble: some words may also be provoked by one odd grant.

        For those it takes another grant that is refused as well, or the same one again and again, with no
        renewal of the connection in between.
        """
        if refused.code in CLIENT_REFUSED:
            return True
        lane.suspicious = True
        noted = await circuits.suspect(
            self._vault, tenant=claim.key.tenant, name=claim.key.connection, grant_id=claim.id
        )
        return noted is not None and (noted != claim.id or claim.attempts + 1 >= UNKNOWN_TRIES)

    async def _break(
        self,
        lane: ConnectionLimiter,
        claim: Claim,
        refused: Refused,
        now: datetime,
        *,
        blame: Literal["operator", "nobody"],
    ) -> None:
        lane.broken = True
        opened = await circuits.open_circuit(
            self._vault,
            tenant=claim.key.tenant,
            name=claim.key.connection,
            fingerprint=lane.connection.fingerprint,
            code=refused.code,
            blame=blame,
            began=claim.began,
            now=now,
            chance=self._chance(),
            retry_after=refused.retry_after,
        )
        if opened is not None:
            log.warning("connection.broken", connection=claim.key.connection, code=refused.code, blame=blame)
