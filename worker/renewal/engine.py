"""Claims and renews all due grants, or one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.contextvars import bind_contextvars

from token_vault.token_target import DEFAULT_TARGET, TokenTarget
from worker import instruments, traces
from worker.renewal.attempt import Renewer
from worker.renewal.commit import COMMIT_RETRY_SECONDS, AnswerCommitter, growing_pauses
from worker.renewal.concurrency import (
    STALLED_SECONDS,
    ConnectionLimiter,
    Key,
    key_of,
    loop_time,
    with_capacity,
)
from worker.renewal.http import CALL_SECONDS, HttpClient
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.vault import claims, pauses
from worker.vault.claims import Claim
from worker.vault.claims.spool import Spool
from worker.vault.connections import circuits
from worker.vault.database_clock import DatabaseClock
from worker.vault.grants import resource_tokens
from worker.vault.kept_connection import KeptConnection
from worker.vault.schedule import RenewalPolicy
from worker.vault.status import renewal_counts
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# A claim must outlive the call made under it: a request is sent only if a whole call fits into the time left.
CLAIM_TIME = timedelta(seconds=4 * CALL_SECONDS)
# Concurrent renewals of one process.
MAX_RENEWALS = 128
_POSTGRES_AWAY = (OperationalError, InterfaceError, PoolTimeout, OSError)

Progress = Callable[[Outcome], None]


class RenewalEngine:
    """Renews grants of one vault with one HTTP client.

    Args:
        vault: holds the grants.
        connections: resolves each connection's client.
        http: as ``renewal.http.http_client`` creates it.
        spool: keeps answers on disk that Postgres cannot store yet.
        now: returns the time; by default the database's.
        jitter: returns a uniform random number, 0 to 1.
    """

    def __init__(
        self,
        vault: Vault,
        connections: ConnectionResolver,
        http: HttpClient,
        spool: Spool,
        *,
        now: Callable[[], datetime] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._vault = vault
        self._connections = connections
        # Not the committer's connection, so that no answer waits for a claim.
        self._claiming = KeptConnection(vault)
        self._committer = AnswerCommitter(vault, spool, jitter)
        self._renewer = Renewer(vault, http, self._committer, jitter)
        self._now = now
        self._jitter = jitter

    async def renew_due(
        self, tenants: Sequence[str], *, budget: float = 50.0, progress: Progress | None = None
    ) -> Counter[Outcome]:
        """Renew due grants until none is left, or time ends.

        Args:
            tenants: the tenants whose grants are renewed.
            budget: seconds after which no more grants are claimed.
            progress: called with the outcome of each renewal.

        Returns:
            How many renewals ended in which outcome.

        Raises:
            ConfigurationError: the spool cannot be written, or the vault is a copy; no request is made.
        """
        with traces.span("renew_due", is_tick=True):
            return await self._renew_due(tenants, budget, progress)

    async def _renew_due(
        self, tenants: Sequence[str], budget: float, progress: Progress | None
    ) -> Counter[Outcome]:
        clock = await self._prepare()
        now = clock()
        for pause in await pauses.end_over(self._vault, now=now):
            log.info("pause.ended", tenant=pause.tenant, connection=pause.connection)
        stop_at = time.monotonic() + budget
        loaded = await self._connections.load(list(tenants), now=now)
        limiters = {
            key: ConnectionLimiter(connection) for key, connection in loaded.items() if connection.client
        }
        async with self._claiming.keep(), self._committer.keep_connection():
            counts, failure = await self._claim_and_renew(limiters, clock, stop_at, progress)
        if failure is not None:
            raise failure
        await self._count(counts, clock)
        return _by_outcome(counts)

    async def _claim_and_renew(
        self,
        limiters: dict[Key, ConnectionLimiter],
        clock: Callable[[], datetime],
        stop_at: float,
        progress: Progress | None,
    ) -> tuple[Counter[tuple[str, str, str]], Exception | None]:
        """Claim and renew due grants, as capacity becomes free.

        Returns:
            The number of renewals by tenant, connection and outcome; and the error that ended claiming, if one did.
        """
        counts: Counter[tuple[str, str, str]] = Counter()
        running: set[asyncio.Task[tuple[Claim, Outcome]]] = set()
        failure: Exception | None = None
        due_by = clock()  # what falls due during the run, also an immediate retry, is left to the next run
        try:
            while True:
                stalled = sum(limiter.stalled(loop_time()) for limiter in limiters.values())
                free = MAX_RENEWALS - len(running) + stalled
                may_claim = failure is None and time.monotonic() < stop_at and free >= MAX_RENEWALS // 2
                if may_claim and (ready := with_capacity(limiters)):
                    try:
                        claimed = await self._claim(ready, free, clock, due_by)
                    except Exception as error:
                        # Calls under way are finished before the failure is raised.
                        claimed, failure = [], error
                    running |= {
                        asyncio.create_task(self._renew(limiters[key_of(claim)], claim, clock))
                        for claim in claimed
                    }
                    continue
                if not running:
                    break
                # It also returns when no call has ended: a call that has stalled makes capacity for others.
                ended, running = await asyncio.wait(
                    running, timeout=STALLED_SECONDS / 5, return_when=asyncio.FIRST_COMPLETED
                )
                for claim, outcome in map(asyncio.Task.result, ended):
                    counts[claim.key.tenant, claim.key.connection, outcome] += 1
                    if progress:
                        progress(outcome)
        finally:
            if running:
                # On interruption, finish the calls under way: an answer may be the only copy of a token.
                await asyncio.wait(running)
        return counts, failure

    async def renew_one(
        self,
        grant_id: int,
        *,
        connection: ResolvedConnection,
        access_version: int | None = None,
        target: TokenTarget = DEFAULT_TARGET,
        force: bool = False,
        by_operator: bool = False,
    ) -> Outcome:
        """Renew one grant now, whatever its due time.

        Args:
            access_version: the version of the access token to replace; None for any.
            target: what that token is for.
            force: also try a dead grant, once a day at most.
            by_operator: also try a dead grant at any time, one in backoff, and one in doubt.

        Returns:
            ``BUSY`` if another worker has claimed the grant, or the grant has changed since the caller read it.

        Raises:
            ConfigurationError: as ``renew_due``.
        """
        clock = await self._prepare()
        if connection.client is None:
            return Outcome.UNRENEWABLE
        now = clock()
        claim = await claims.claim_one(
            self._vault, grant_id, owner=uuid4(), now=now, until=now + CLAIM_TIME,
            access_version=access_version if target.is_default else None, force=force, by_operator=by_operator,
        )  # fmt: skip
        if claim is not None and not target.is_default:
            claim = await self._for_target(claim, target, access_version, connection.policy, now)
        if claim is None:
            return Outcome.BUSY
        limiter = ConnectionLimiter(connection, wait_in_doubt=not by_operator, requested=True)
        renewing = asyncio.create_task(self._renew(limiter, claim, clock))
        try:
            _, outcome = await asyncio.shield(renewing)
        finally:
            await asyncio.wait([renewing])  # on interruption, as in ``_claim_and_renew``
        await self._count({(claim.key.tenant, claim.key.connection, outcome): 1}, clock)
        return outcome

    async def _for_target(
        self, claim: Claim, target: TokenTarget, version: int | None, policy: RenewalPolicy, now: datetime
    ) -> Claim | None:
        """Return the claim for a target.

        None if another worker has just obtained that token.
        """
        claim = replace(
            claim,
            target=target,
            target_version=await resource_tokens.read_version(self._vault, claim.id, target),
        )
        if version in (None, claim.target_version):
            return claim
        due_at = claims.unchanged_due_at(claim, now, self._jitter(), policy)
        await claims.release_unspent(self._vault, [claim], due_at=due_at)
        return None

    async def _prepare(self) -> Callable[[], datetime]:
        """Replay and check the spool; return a clock.

        Raises:
            ConfigurationError: as ``renew_due``.
        """
        await self._vault.check_location()
        await self._committer.replay()
        self._committer.check()
        return await self._clock()

    async def _clock(self) -> Callable[[], datetime]:
        """Return a clock that starts at the database's time."""
        return self._now or DatabaseClock(await self._vault.now()).now

    async def _claim(
        self,
        limiters: dict[Key, ConnectionLimiter],
        limit: int,
        clock: Callable[[], datetime],
        due_by: datetime,
    ) -> list[Claim]:
        quotas = {key: limiter.capacity - limiter.calls for key, limiter in limiters.items()}
        now = clock()
        claimed = await claims.claim_due(
            self._vault, quotas, owner=uuid4(), now=now, until=now + CLAIM_TIME, limit=limit, due_by=due_by,
            connection=self._claiming,
        )  # fmt: skip
        for claim in claimed:
            limiters[key_of(claim)].started_at[claim.id] = loop_time()
        claimed_by_connection = Counter(map(key_of, claimed))
        for key, limiter in limiters.items():
            # If fewer came than asked for, no more grants of this connection were due when the run began.
            limiter.exhausted = claimed_by_connection[key] < quotas[key] and len(claimed) < limit
        return claimed

    async def _renew(
        self, limiter: ConnectionLimiter, claim: Claim, clock: Callable[[], datetime]
    ) -> tuple[Claim, Outcome]:
        tenant, connection = claim.key.tenant, claim.key.connection
        bind_contextvars(tenant=tenant)  # in this renewal's own asyncio task
        with traces.span("renew", tenant=tenant, connection=connection, grant=claim.id) as span:
            outcome = await self._attempt(limiter, claim, clock)
            span.set(outcome=outcome.value)
        return claim, outcome

    async def _attempt(
        self, limiter: ConnectionLimiter, claim: Claim, clock: Callable[[], datetime]
    ) -> Outcome:
        # After an error the claim is not released: past its deadline the grant counts as in doubt, as it should.
        try:
            return await self._renewer.attempt(limiter, claim, clock)
        except _POSTGRES_AWAY as error:
            log.warning(
                "renewal.interrupted",
                grant=claim.id,
                connection=claim.key.connection,
                error=type(error).__name__,
            )
            await self._end_early(limiter, claim, clock)
            return Outcome.IN_DOUBT
        except Exception:
            log.exception("renewal.failed", grant=claim.id, connection=claim.key.connection)
            return Outcome.FAILED
        finally:
            limiter.started_at.pop(claim.id, None)

    async def _end_early(
        self, limiter: ConnectionLimiter, claim: Claim, clock: Callable[[], datetime]
    ) -> None:
        """End a finished call's claim once Postgres is back.

        A failure that breaks the connection to Postgres often loses the provider's answer too. A retry within the
        provider's grace is safe, but the claim's own deadline may be later than the grace.
        """
        give_up_at, delays = time.monotonic() + COMMIT_RETRY_SECONDS, growing_pauses()
        while time.monotonic() < give_up_at and (now := clock()) < claim.until:
            try:
                await claims.end_early(self._vault, claim, now=now)
                if limiter.connection.circuit.is_open:  # the claim was the probe
                    tenant, name = claim.key.tenant, claim.key.connection
                    await circuits.release_probe(self._vault, tenant=tenant, name=name, now=now)
            except _POSTGRES_AWAY:
                await asyncio.sleep(next(delays))
            else:
                return

    async def _count(self, counts: Mapping[tuple[str, str, str], int], clock: Callable[[], datetime]) -> None:
        """Count outcomes; a failure to store them is only logged."""
        for labels, count in counts.items():
            instruments.renewals.labels(*labels).inc(count)
        try:
            await renewal_counts.count_renewals(self._vault, counts, now=clock())
        except (SQLAlchemyError, OSError) as error:
            log.warning("renewal.count_failed", error=type(error).__name__)


def _by_outcome(counts: Counter[tuple[str, str, str]]) -> Counter[Outcome]:
    total: Counter[Outcome] = Counter()
    for (_, _, outcome), count in counts.items():
        total[Outcome(outcome)] += count
    return total
