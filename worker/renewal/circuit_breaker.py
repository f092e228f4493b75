"""Opens and closes circuits by the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Literal

import structlog

from worker.providers import RefusalBlame, Refused
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.evidence import Finding, Judgement, judge, suspicion_of, weigh
from worker.vault.claims import Claim
from worker.vault.connections import circuits
from worker.vault.refusals import refusals
from worker.vault.refusals.refusals import Evidence, Suspicion
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)


_FINDING_OF_OPEN_CIRCUIT = {None: Finding.NOBODY, "operator": Finding.CLIENT, "nobody": Finding.OUTAGE}
"""By the circuit's blame."""


class CircuitBreaker:
    """The circuits of one vault's connections.

    Args:
        vault: stores the circuits.
        jitter: returns a uniform random number, 0 to 1; it spreads the probes.
    """

    def __init__(self, vault: Vault, jitter: Callable[[], float]) -> None:
        self._vault = vault
        self._jitter = jitter

    async def record_renewal(self, limiter: ConnectionLimiter, clock: Callable[[], datetime]) -> None:
        """Acquit the client: it renewed a grant.

        Earlier refusals then concern only their own grants. Nothing is written if the connection is not suspected.
        """
        connection = limiter.connection
        # Suspicions loaded with the connection are cleared by the run's first renewal.
        was_suspected = not limiter.renewed and (connection.is_suspected or not connection.is_proven)
        limiter.renewed = True
        if not (was_suspected or limiter.suspected):
            return
        limiter.suspected = False
        await circuits.acquit(
            self._vault,
            tenant=connection.tenant,
            name=connection.name,
            fingerprint=connection.fingerprint,
            now=clock(),
        )
        if connection.circuit.is_open:
            log.info("connection.mended", connection=connection.name)

    async def judge(
        self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime
    ) -> Judgement:
        """Record a refusal, and weigh it with the others."""
        connection = limiter.connection
        suspicion = suspicion_of(refused, client_is_proven=connection.is_proven or limiter.renewed)
        # A dead grant is only tried in case it lives after all; its refusal is no evidence against the connection.
        if suspicion is None or claim.state == "reauthorization_required" or connection.fingerprint is None:
            return Judgement(suspicion)
        limiter.suspected = True
        evidence = await refusals.record(
            self._vault,
            tenant=claim.key.tenant,
            connection=claim.key.connection,
            grant_id=claim.id,
            client=connection.fingerprint,
            suspicion=suspicion,
            code=refused.code,
            begins_anew=claim.attempts == 0,
            now=now,
        )
        if evidence is None:
            return Judgement(suspicion)
        evidence = await self._with_last_renewal(claim, evidence)
        # The circuit's current state comes with the evidence: this run may have closed the one that was loaded.
        open_for = _FINDING_OF_OPEN_CIRCUIT[evidence.circuit_blame]
        return judge(suspicion, claim.id, evidence, open_for=open_for)

    async def respond(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        refused: Refused,
        judgement: Judgement,
        now: datetime,
        claimed_at: datetime,
    ) -> None:
        """Open or close the circuit, or ask a witness.

        Args:
            claimed_at: when the row was claimed; the attempt may have begun later.
        """
        tenant, name = claim.key.tenant, claim.key.connection
        if judgement.finding is Finding.CLIENT:
            await self._open(limiter, claim, refused, now, claimed_at, blame="operator")
        elif judgement.finding is Finding.OUTAGE:
            await self._open(limiter, claim, refused, now, claimed_at, blame="nobody")
        elif judgement.suspicion not in (Suspicion.OUTAGE, Suspicion.THROTTLED):
            await self._record_answer(limiter, refused, now)
        if judgement.wants_witness and judgement.finding is Finding.NOBODY:
            await refusals.call_witness(self._vault, tenant=tenant, connection=name, now=now)

    async def _with_last_renewal(self, claim: Claim, evidence: Evidence) -> Evidence:
        """Look up the latest renewal before the client is blamed.

        Another worker may have just made one.
        """
        if weigh(evidence) is not Finding.CLIENT:
            return evidence
        renewed_at = await refusals.last_renewal(
            self._vault, tenant=claim.key.tenant, connection=claim.key.connection
        )
        times = [time for time in (renewed_at, evidence.renewed_at) if time is not None]
        return replace(evidence, renewed_at=max(times, default=None))

    async def _record_answer(self, limiter: ConnectionLimiter, refused: Refused, now: datetime) -> None:
        """Record that the provider has no outage."""
        connection = limiter.connection
        if not (limiter.suspected or connection.is_suspected):
            return
        await circuits.record_answer(
            self._vault, tenant=connection.tenant, name=connection.name, now=now,
            # Some providers check the token before the client, so this answer does not prove the client right: another
            # grant is probed at once.
            probe_again=connection.circuit.blame == "operator" and refused.blame is RefusalBlame.USER,
        )  # fmt: skip

    async def _open(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        refused: Refused,
        now: datetime,
        claimed_at: datetime,
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
            claimed_at=claimed_at,
            now=now,
            jitter=self._jitter(),
            retry_after=refused.retry_after,
        )
        if opened is not None:
            log.warning("connection.broken", connection=claim.key.connection, code=refused.code, blame=blame)
