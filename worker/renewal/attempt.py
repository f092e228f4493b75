"""One attempt at a renewal, under a claim.

Nothing comes between a provider's answer and its commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from token_vault.errors import CannotDecrypt
from token_vault.secret import Secret
from worker import instruments, providers, traces
from worker.providers import CLIENT_REFUSED, Provider, RefusalBlame, Refused, Renewed, TokenRequest
from worker.renewal import observations
from worker.renewal.circuit_breaker import CircuitBreaker
from worker.renewal.commit import AnswerCommitter
from worker.renewal.concurrency import ConnectionLimiter
from worker.renewal.http import CALL_SECONDS, PROXY_FAILED, Answer, HttpClient, NoAnswer, send
from worker.renewal.outcome import (
    NOTHING_TO_SPEND,
    Decision,
    Outcome,
    decide,
    stay_dormant,
    wait_for_key,
    wait_for_proxy,
    wait_in_doubt,
)
from worker.vault import claims
from worker.vault.claims import Claim
from worker.vault.connections import circuits
from worker.vault.grants import resource_tokens
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _ClaimedTokens:
    """A claim's decrypted tokens.

    Attributes:
        access: the access token, only for providers that exchange it for a new one.
    """

    refresh: Secret | None
    access: Secret | None


class Renewer:
    """Makes attempts on one vault with one HTTP client.

    Args:
        vault: holds the claims.
        http: as ``renewal.http.http_client`` creates it.
        committer: commits the answers.
        jitter: returns a uniform random number, 0 to 1.
    """

    def __init__(
        self, vault: Vault, http: HttpClient, committer: AnswerCommitter, jitter: Callable[[], float]
    ) -> None:
        self._vault = vault
        self._http = http
        self._committer = committer
        self._breaker = CircuitBreaker(vault, jitter)
        self._jitter = jitter

    async def attempt(
        self, limiter: ConnectionLimiter, claim: Claim, clock: Callable[[], datetime]
    ) -> Outcome:
        """Send the claimed token once, and commit the answer.

        Args:
            limiter: of the claim's connection.
            claim: not yet used for a request.
            clock: returns the database's time.
        """

        def has_time() -> bool:
            return clock() + timedelta(seconds=CALL_SECONDS) < claim.until

        await self._committer.wait_for_commit_capacity(has_time)
        now, client, provider = clock(), limiter.connection.client, limiter.connection.provider
        if client is None or provider is None or limiter.circuit_opened or not has_time():
            await claims.release_unspent(self._vault, [claim], due_at=now)
            return Outcome.UNSENT
        # The attempt begins now, after the wait: this is the time from which an unknown outcome counts.
        claimed_at, claim = claim.claimed_at, replace(claim, claimed_at=now)
        tokens = self._postpone(limiter, provider, claim, now) or self._decrypt(provider, claim, now)
        if isinstance(tokens, Decision):
            return await self._release(limiter, claim, tokens, now)
        if not claim.target.is_default:
            client = provider.for_target(client, claim.target)
        request = provider.request(client, access=tokens.access, refresh=tokens.refresh, now=now)
        # The answer to the earlier request may have been stored meanwhile, and has then ended this claim.
        if claim.in_doubt_since is not None and not await claims.is_held(self._vault, claim):
            return Outcome.SUPERSEDED
        sent_at = time.perf_counter()
        answer = await self._send(request, provider, has_time)
        seconds = time.perf_counter() - sent_at
        if isinstance(answer, NoAnswer) and answer.code == PROXY_FAILED:
            limiter.exhausted = True  # the next call would fail the same way
            return await self._release(limiter, claim, wait_for_proxy(clock(), self._jitter()), clock())
        result = _read(provider, answer, tokens.refresh, now)
        kind = _kind_of(answer, result)
        instruments.provider_calls.labels(provider.name, kind).observe(seconds)
        if limiter.requested:  # renewals in batches are counted, not logged one by one
            log.info("provider.answered", grant=claim.id, connection=claim.key.connection, answer=kind)
        if isinstance(result, Refused):
            with traces.span("commit_refusal"):
                return await self._handle_refusal(limiter, claim, provider, result, clock, claimed_at)
        return await self._commit(limiter, claim, tokens, result, clock)

    async def _send(
        self, request: TokenRequest, provider: Provider, has_time: Callable[[], bool]
    ) -> Answer | NoAnswer:
        name, method = f"{request.method} token endpoint", request.method
        with traces.span(name, "client", method=method, provider=provider.name) as span:
            answer = await send(self._http, request, has_time)
            if isinstance(answer, NoAnswer):
                span.set(error=answer.code)
            else:
                span.set_status(answer.status)
        return answer

    def _postpone(
        self, limiter: ConnectionLimiter, provider: Provider, claim: Claim, now: datetime
    ) -> Decision | None:
        """Decide whether to send the token later instead of now."""
        if not limiter.wait_in_doubt:
            return None
        # A dormant grant may be the witness that a suspected connection needs.
        awake = limiter.requested or limiter.connection.is_suspected
        policy = limiter.connection.policy
        dormant = None if awake else stay_dormant(claim, policy, now=now, jitter=self._jitter())
        return dormant or wait_in_doubt(claim, provider, now=now)

    def _decrypt(self, provider: Provider, claim: Claim, now: datetime) -> _ClaimedTokens | Decision:
        """Decrypt the tokens to send, or decide without them."""
        try:
            refresh = claims.decrypt_refresh_token(self._vault, claim)
            needs_access = provider.prolongs or not provider.needs_refresh_token
            access = claims.decrypt_access_token(self._vault, claim) if needs_access else None
        except CannotDecrypt as error:
            log.error(  # noqa: TRY400  # the message says it all
                "renewal.decrypt_failed", grant=claim.id, connection=claim.key.connection, error=str(error)
            )
            return wait_for_key(claim, now)
        if refresh is None and (provider.needs_refresh_token or access is None):
            return NOTHING_TO_SPEND
        return _ClaimedTokens(refresh, access)

    async def _release(
        self, limiter: ConnectionLimiter, claim: Claim, decision: Decision, now: datetime
    ) -> Outcome:
        """Release a claim under which nothing was sent."""
        await claims.release(self._vault, claim, **decision.columns)
        if (
            limiter.connection.circuit.is_open
        ):  # the claim was the probe, and sent nothing: allow the next probe now
            await circuits.release_probe(
                self._vault, tenant=claim.key.tenant, name=claim.key.connection, now=now
            )
        return decision.outcome

    async def _commit(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        tokens: _ClaimedTokens,
        renewed: Renewed,
        clock: Callable[[], datetime],
    ) -> Outcome:
        """Commit the pair, then record observations."""
        pair, connection = renewed.pair, limiter.connection
        if renewed.prolonged:
            pair = replace(pair, access=tokens.access)
        with traces.span("commit") as span:
            outcome = await self._committer.store(
                claim,
                pair,
                sent_at=claim.claimed_at,
                policy=connection.policy,
                life=connection.stored.observed_life,
            )
            span.set(outcome=outcome.value)
        if outcome is Outcome.SPOOLED:
            limiter.exhausted = True  # Postgres is away, so claim no more
        else:
            limiter.grow()
            await self._breaker.record_renewal(limiter, clock)
            # A resource token may live longer or shorter than the grant's own token, so its life is not observed.
            observed = pair if claim.target.is_default else replace(pair, expires_at=None)
            await observations.record_from_pair(self._vault, limiter, claim, observed, spent=tokens.refresh)
        return outcome

    async def _refuse_target(
        self, limiter: ConnectionLimiter, claim: Claim, refused: Refused, now: datetime
    ) -> Outcome:
        """Record a target's refusal, which does not end the grant.

        For ``invalid_grant`` the grant itself may be dead: its own token is renewed at once, which shows that.
        """
        is_user = refused.blame is RefusalBlame.USER
        blame = "user" if is_user else "operator"
        await resource_tokens.record_refusal(
            self._vault, claim.id, claim.target, code=refused.code, blame=blame, now=now
        )
        due_at = claims.unchanged_due_at(claim, now, self._jitter(), limiter.connection.policy)
        await claims.release(self._vault, claim, due_at=now if refused.code == "invalid_grant" else due_at)
        log.warning(
            "renewal.target_refused",
            grant=claim.id,
            connection=claim.key.connection,
            target=str(claim.target),
            blame=blame,
            code=refused.code,
        )
        return Outcome.RETRY

    async def _handle_refusal(
        self,
        limiter: ConnectionLimiter,
        claim: Claim,
        provider: Provider,
        refused: Refused,
        clock: Callable[[], datetime],
        claimed_at: datetime,
    ) -> Outcome:
        now = clock()
        if _is_about_target(claim, refused):
            return await self._refuse_target(limiter, claim, refused, now)
        judgement = await self._breaker.judge(limiter, claim, refused, now)
        decision = decide(
            refused, claim, provider, judgement=judgement, client=limiter.connection.client_identity, now=now,
            jitter=self._jitter(),
        )  # fmt: skip
        released = await claims.release(self._vault, claim, **decision.columns)
        outcome = decision.outcome
        if outcome is Outcome.LOST:
            if not released:
                await claims.mark_reused(self._vault, claim, now=now)
            await observations.record_from_loss(self._vault, claim, provider)
        if decision.outage:
            limiter.shrink()
        elif judgement.suspicion is None:
            limiter.grow()
        # The time anew: Postgres may have been away meanwhile.
        await self._breaker.respond(limiter, claim, refused, judgement, clock(), claimed_at)
        log.warning(
            "renewal.refused",
            grant=claim.id,
            connection=claim.key.connection,
            blame=refused.blame.value,
            code=refused.code,
            outcome=outcome.value,
        )
        return outcome if released else Outcome.SUPERSEDED


def _read(
    provider: Provider, answer: Answer | NoAnswer, spent: Secret | None, sent_at: datetime
) -> Renewed | Refused:
    if isinstance(answer, Answer):
        return provider.read(answer.status, answer.headers, answer.body, sent_at=sent_at, spent=spent)
    return providers.unreachable("sent" if answer.sent else "not_sent", provider, answer.code)


def _kind_of(answer: Answer | NoAnswer, result: Renewed | Refused) -> str:
    """Return the kind of an answer, for metrics and log."""
    if isinstance(answer, NoAnswer):
        return "none"
    return "refusal" if isinstance(result, Refused) else "pair"


def _is_about_target(claim: Claim, refused: Refused) -> bool:
    """Return whether a refusal blames the claim's target.

    A refused client, an outage and a refresh token in doubt would refuse any target.
    """
    if claim.target.is_default or claim.in_doubt_since is not None or refused.code in CLIENT_REFUSED:
        return False
    return refused.blame in (RefusalBlame.USER, RefusalBlame.OPERATOR, RefusalBlame.UNKNOWN)
