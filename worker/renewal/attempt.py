"""One attempt at a renewal, under a claim. No step comes between a provider's answer and its commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import structlog

from token_vault.errors import CannotDecrypt
from worker import providers
from worker.providers import Refused, Renewed, TokenRequest
from worker.renewal import observations
from worker.renewal.circuit_breaker import CircuitBreaker
from worker.renewal.commit import AnswerCommitter
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.http import CALL_SECONDS, Answer, send
from worker.renewal.outcome import NOTHING_TO_SPEND, Decision, Outcome, decide, unreadable, wait_in_doubt
from worker.vault import claims, schedule
from worker.vault.claims import Claim
from worker.vault.connections import circuits
from worker.vault.db.database import Vault

log = structlog.get_logger(__name__)


class Renewer:
    """Attempts on one vault over one HTTP client.

    Args:
        vault: where the claims are.
        http: as ``sending.http_client`` makes it.
        committer: commits the answers.
        jitter: 0 to 1, uniform.
    """

    def __init__(
        self, vault: Vault, http: httpx.AsyncClient, committer: AnswerCommitter, jitter: Callable[[], float]
    ) -> None:
        self._vault = vault
        self._http = http
        self._committer = committer
        self._breaker = CircuitBreaker(vault, jitter)
        self._jitter = jitter

    async def attempt(
        self, limiter: ConnectionLimiter, claim: Claim, clock: Callable[[], datetime]
    ) -> Outcome:
        """Open the claimed token, send it once, and commit the answer before anything else."""

        def has_time() -> bool:
            return clock() + timedelta(seconds=CALL_SECONDS) < claim.until

        await self._committer.wait_for_commit_capacity(
            has_time
        )  # while answers cannot be committed, no more are asked for
        now, client, provider = clock(), limiter.connection.client, limiter.connection.provider
        if client is None or provider is None or limiter.circuit_opened or not has_time():
            await claims.release_unspent(self._vault, [claim], due_at=now)
            return Outcome.UNSENT
        # The attempt begins here: what came before was waiting.
        claim = replace(claim, claimed_at=now)
        request = self._request(limiter, client, provider, claim, now)
        if isinstance(request, Decision):
            await claims.release(self._vault, claim, **request.columns)
            if limiter.connection.circuit.is_open:
                await circuits.probe_again(
                    self._vault, tenant=claim.key.tenant, name=claim.key.connection, now=now
                )
            return request.outcome
        if claim.in_doubt_since is not None and not await claims.still_holds(self._vault, claim):
            return Outcome.SUPERSEDED
        result = await self._call(provider, request, now, has_time)
        if isinstance(result, Refused):
            return await self._refused(limiter, claim, provider, result, clock)
        stored = limiter.connection.stored
        outcome = await self._committer.store(
            claim, result.pair, sent_at=now, policy=limiter.connection.policy, life=stored.observed_life
        )
        if outcome is Outcome.SPOOLED:
            limiter.exhausted = True  # Postgres is away: no more is claimed
        else:
            limiter.grow()
            await self._breaker.renewed(limiter, clock)
            await observations.record_from_pair(self._vault, limiter, claim, result.pair, now)
        return outcome

    def _request(
        self,
        limiter: ConnectionLimiter,
        client: providers.Client,
        provider: providers.Provider,
        claim: Claim,
        now: datetime,
    ) -> TokenRequest | Decision:
        """The request for this claim, or why there is none to be made."""
        if limiter.wait_in_doubt and not limiter.requested and (asleep := self._asleep(limiter, claim, now)):
            return asleep
        if limiter.wait_in_doubt and (waiting := wait_in_doubt(claim, provider, now=now)):
            return waiting
        try:
            refresh = claims.open_refresh(self._vault, claim)
            access = None if provider.needs_refresh_token else claims.open_access(self._vault, claim)
        except CannotDecrypt as error:
            log.error(  # noqa: TRY400  # the message says it all
                "renew.unreadable", grant=claim.id, connection=claim.key.connection, problem=str(error)
            )
            return unreadable(claim, now)
        if refresh is None and (provider.needs_refresh_token or access is None):
            return NOTHING_TO_SPEND
        return provider.request(client, access=access, refresh=refresh)

    def _asleep(self, limiter: ConnectionLimiter, claim: Claim, now: datetime) -> Decision | None:
        """When to look again at a grant that nobody reads and whose refresh token is in no danger."""
        policy = limiter.connection.policy
        if claim.state != "active" or not policy.is_dormant(claim.last_read_at, now) or claim.attempts:
            return None
        if claim.in_doubt_since is not None or claim.obtained_at is None:
            return None
        alive = schedule.while_alive(claim.obtained_at, self._jitter(), policy, claim.refresh_expires_at)
        if (
            alive <= now
            or schedule.while_alive(claim.obtained_at, 1, policy, claim.refresh_expires_at) <= now
        ):
            return None
        return Decision(Outcome.UNSENT, False, {"due_at": alive})

    async def _call(
        self,
        provider: providers.Provider,
        request: TokenRequest,
        sent_at: datetime,
        has_time: Callable[[], bool],
    ) -> Renewed | Refused:
        answer = await send(self._http, request, has_time)
        if isinstance(answer, Answer):
            return provider.read(answer.status, answer.headers, answer.body, sent_at=sent_at)
        return providers.unreachable("sent" if answer.sent else "not_sent", provider, answer.code)

    async def _refused(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        provider: providers.Provider,
        refused: Refused,
        clock: Callable[[], datetime],
    ) -> Outcome:
        now = clock()
        decision: Decision = decide(refused, claim, provider, now=now, jitter=self._jitter())
        released = await claims.release(self._vault, claim, **decision.columns)
        outcome = decision.outcome
        if not released and outcome is Outcome.LOST:
            await claims.refused_after_all(self._vault, claim, now=now)
        if decision.outage:
            limiter.shrink()
            await self._breaker.away(limiter, claim, refused, now)
        elif not decision.opens_circuit:
            limiter.grow()
            await self._breaker.answered(limiter, refused, clock)
            if outcome is Outcome.LOST:
                await observations.record_from_loss(self._vault, claim, provider)
        elif not await self._breaker.refused(limiter, claim, refused, now):
            outcome = Outcome.RETRY
        log.warning(
            "renew.refused",
            grant=claim.id,
            connection=claim.key.connection,
            blame=refused.blame.value,
            code=refused.code,
            outcome=outcome.value,
        )
        return outcome if released else Outcome.SUPERSEDED
