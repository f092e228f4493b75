"""Refreshes one grant now, unless another worker already does.

Backoff, circuit and claim apply as in batches, so that requests cause no extra calls to the provider.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from token_vault.errors import TokenNotFound
from token_vault.read_model import SELECT_GRANT, SELECT_GRANT_TARGET, SELECT_SERVED, Served, choose
from token_vault.token_target import DEFAULT_TARGET, TokenTarget
from worker import traces
from worker.renewal.engine import CLAIM_TIME, RenewalEngine
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.vault import claims, pauses, schedule
from worker.vault.connections import circuits
from worker.vault.grants import resource_tokens, touch
from worker.vault.vault import Vault
from worker.vault.wakeups import wake

# The longest wait for another worker's call: longer than any call takes.
MAX_WAIT_SECONDS = 50.0
# A token that was renewed within this time is not renewed again, even by force or if it is reported as rejected: so
# repeated requests cost one call in this time. For tokens with less than twice this life it is half their life.
MIN_RENEWAL_INTERVAL = timedelta(minutes=1)
# The same for a token that is issued already expired.
_SHORTEST_INTERVAL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A grant's state after a refresh on demand.

    It holds only ids, states and times, so it may be a task's result.

    Attributes:
        renewed: whether there is a new token, from this call or another's.
        retry_after: seconds after which to try again, if there is no fresh token.
    """

    tenant: str
    user_id: str
    connection: str
    state: str
    outcome: Outcome
    renewed: bool
    expires_at: datetime | None
    reason: str | None = None
    since: datetime | None = None
    retry_after: float | None = None


class OnDemand:
    """Refreshes single grants.

    Args:
        vault: holds the grants.
        connections: resolves each connection's client.
        engine: makes the calls.
        listeners: how many may wait for another worker's call at the same time. Each takes one of the vault's
            connections, so there must be fewer, or the answers that they wait for could not be committed.
    """

    def __init__(
        self, vault: Vault, connections: ConnectionResolver, engine: RenewalEngine, *, listeners: int
    ) -> None:
        self._vault = vault
        self._connections = connections
        self._engine = engine
        self._listeners = asyncio.Semaphore(listeners)

    async def refresh(
        self,
        *,
        tenants: Sequence[str],
        user_id: str,
        connection: str,
        account: str | None = None,
        min_ttl: float | None = None,
        target: TokenTarget = DEFAULT_TARGET,
        force: bool = False,
        by_operator: bool = False,
    ) -> Refreshed:
        """Make a grant's token fresh, and wake waiting readers.

        Args:
            tenants: the tenants to search.
            user_id: Auth0's user id; empty for the connection's admin grant.
            connection: the connection's name.
            account: the user's id at the provider; None for the primary identity, or the only one.
            min_ttl: seconds of life that the token must have left; None for the default.
            target: what the token is for.
            force: also renew a fresh token, once a minute at most, and try a dead grant, once a day at most.
            by_operator: with ``force``, without these limits: also a token that was just renewed, a dead grant, one in
                backoff or in doubt, or one behind an open circuit.

        Raises:
            TokenNotFound: the vault has no such grant.
            AmbiguousAccount: there are several, and no account was named.
        """
        served = await self._find(tenants, user_id, connection, account)
        if not target.is_default:
            served = await self._read(served.id, target)
        refreshing = self._refresh(served, min_ttl, force=force, by_operator=by_operator and force)
        refreshed = await _trace(served, refreshing)
        await wake(self._vault, [served.id])
        return refreshed

    async def refresh_grant(
        self,
        grant_id: int,
        *,
        min_ttl: float | None,
        rejected_version: int | None = None,
        target: TokenTarget = DEFAULT_TARGET,
        is_read: bool = True,
    ) -> Refreshed:
        """Make a grant's token fresh; the caller wakes the readers.

        Args:
            min_ttl: as for ``refresh``.
            rejected_version: version of an access token that an API refused: it is renewed though it has not ended.
            target: what the token is for.
            is_read: whether a reader asks: that keeps a grant fresh that is renewed on read.

        Raises:
            TokenNotFound: the vault has no such grant.
        """
        served = await self._read(grant_id, target)
        refreshing = self._refresh(
            served,
            min_ttl,
            force=False,
            by_operator=False,
            rejected_version=rejected_version,
            is_read=is_read,
        )
        return await _trace(served, refreshing)

    async def _refresh(
        self,
        served: Served,
        min_ttl: float | None,
        *,
        force: bool,
        by_operator: bool,
        rejected_version: int | None = None,
        is_read: bool = True,
    ) -> Refreshed:
        if is_read:
            await self._record_read(served)
        began, outcome, crowded_for = served, Outcome.FRESH, 0.0
        deadline = asyncio.get_running_loop().time() + MAX_WAIT_SECONDS
        while True:
            loaded = await self._connections.load([served.tenant], served.connection)
            resolved = loaded[served.tenant, served.connection]
            is_fresh = served.is_fresh(_attainable_ttl(served, min_ttl))
            if not force and is_fresh and not _is_rejected(served, rejected_version):
                break
            if served.is_refused or not await self._allows(served, resolved):
                outcome = Outcome.RETRY
                break
            # The claim compares this row's version, so a concurrent caller cannot renew the same token twice.
            if not by_operator and _interval_left(served) > 0:
                outcome = Outcome.FRESH if is_fresh else Outcome.RETRY
                break
            if not by_operator and (crowded_for := await self._crowded_for(served)) > 0:
                outcome = Outcome.RETRY
                break
            if (obstacle := await self._find_obstacle(served, resolved, force, by_operator)) is not None:
                outcome = obstacle
                break
            outcome = await self._engine.renew_one(
                served.id,
                connection=resolved,
                access_version=served.access_version,
                target=served.target,
                force=force,
                by_operator=by_operator,
            )
            if outcome is not Outcome.BUSY:
                served = await self._read(served.id, served.target)
                break
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            await self._wait(served.id, remaining)
            served = await self._read(served.id, served.target)
            if served.obtained_at != began.obtained_at or served.state != began.state:
                force, outcome = False, Outcome.FRESH  # another worker's call did what was asked for
        return await self._report(served, began, outcome, resolved, min_ttl, crowded_for)

    async def _find(
        self, tenants: Sequence[str], user_id: str, connection: str, account: str | None
    ) -> Served:
        rows = await self._select(SELECT_SERVED, (user_id, connection))
        served = choose([row for row in rows if row.tenant in tenants], user_id, account)
        if served is None:
            who = f"user {user_id}" if user_id else "admin"
            raise TokenNotFound(f"the vault has no grant of {who} for connection {connection}")
        return served

    async def _read(self, grant_id: int, target: TokenTarget) -> Served:
        if target.is_default:
            rows = await self._select(SELECT_GRANT, (grant_id,))
        else:
            rows = await self._select(SELECT_GRANT_TARGET, (target.resource, target.scope, grant_id))
        if not rows or rows[0].state == "erased":
            raise TokenNotFound("the vault has this grant no more")
        return rows[0]

    async def _select(self, statement: str, values: tuple[object, ...]) -> list[Served]:
        async with self._vault.engine.connect() as connection:
            raw = await connection.exec_driver_sql(statement, values)
            return [Served._make(row) for row in raw.all()]

    async def _record_read(self, served: Served) -> None:
        """Record a read, if reads keep the grant fresh.

        A grant with a recorded read is always recorded again: otherwise its readers would go on noting reads.
        """
        if not served.target.is_default or (served.last_read_at is not None and not served.wants_note):
            return
        loaded = await self._connections.load([served.tenant], served.connection)
        policy = loaded[served.tenant, served.connection].policy
        if policy.read_window is None and served.last_read_at is None:
            return
        fresh = schedule.fresh_due_at(
            served.expires_at,
            served.obtained_at or served.now,
            random.random(),  # noqa: S311  # jitter
            policy,
        )
        await touch.record_read(self._vault, served.id, now=served.now, due_at=fresh)

    async def _find_obstacle(
        self, served: Served, resolved: ResolvedConnection, force: bool, by_operator: bool
    ) -> Outcome | None:
        """Return the outcome if no call may be made now."""
        if resolved.client is None or served.state == "unrenewable":
            return Outcome.UNRENEWABLE
        if not await self._may_be_tried(served, force, by_operator):
            return Outcome.DEAD
        is_paused = await pauses.find(self._vault, served.tenant, served.connection) is not None
        if is_paused or by_operator:
            return Outcome.PAUSED if is_paused else None
        backs_off = await claims.backoff_left(self._vault, served.id) > 0
        if await self._is_blocked(served, resolved, backs_off):
            return Outcome.BLOCKED if resolved.circuit.blame == "operator" else Outcome.RETRY
        if backs_off:
            return Outcome.IN_DOUBT if served.state == "in_doubt" else Outcome.RETRY
        return None

    async def _may_be_tried(self, served: Served, force: bool, by_operator: bool) -> bool:
        """Return whether a grant may be tried now."""
        if served.state != "reauthorization_required":
            return True
        if served.reason == "revoked":
            return False  # there is no token left to try
        return by_operator or (force and await claims.may_be_forced(self._vault, served.id, now=served.now))

    async def _allows(self, served: Served, resolved: ResolvedConnection) -> bool:
        """Return whether the settings allow the target.

        If not, the refusal is recorded for the readers.
        """
        if served.target.is_default or resolved.allows(served.target):
            return True
        await resource_tokens.record_refusal(
            self._vault, served.id, served.target, code="not_allowed", blame="denied", now=served.now
        )
        return False

    async def _crowded_for(self, served: Served) -> float:
        """Return seconds until a target may be called.

        The calls for all targets of one grant have a least interval.
        """
        if served.target.is_default:
            return 0.0
        return await resource_tokens.seconds_to_next_call(self._vault, served.id, now=served.now)

    async def _is_blocked(self, served: Served, resolved: ResolvedConnection, backs_off: bool) -> bool:
        """Return whether the open circuit forbids a call.

        After its pause the circuit allows one call, a probe; a grant in backoff does not take it.
        """
        if resolved.circuit.until is None or (backs_off and resolved.circuit.until <= served.now):
            return False
        return not await circuits.claim_probe(
            self._vault,
            tenant=served.tenant,
            name=served.connection,
            now=served.now,
            until=served.now + CLAIM_TIME,
        )

    async def _wait(self, grant_id: int, seconds: float) -> None:
        """Wait until another worker's claim ends, or time is up."""
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._listeners.acquire()
        except TimeoutError:
            return
        try:
            await claims.wait_for_release(self._vault, grant_id, deadline=deadline)
        finally:
            self._listeners.release()

    async def _report(
        self,
        served: Served,
        began: Served,
        outcome: Outcome,
        resolved: ResolvedConnection,
        min_ttl: float | None,
        crowded_for: float,
    ) -> Refreshed:
        state, reason, retry_after = served.state, served.reason, None
        if resolved.client is None:
            state = "unrenewable"
        elif outcome is Outcome.PAUSED:
            state = reason = pauses.PAUSED
            pause = await pauses.find(self._vault, served.tenant, served.connection)
            retry_after = pause.retry_after(served.now) if pause else 1.0
        elif outcome is Outcome.BLOCKED:
            state = "blocked"
            until = resolved.circuit.until
            retry_after = max(1.0, (until - served.now).total_seconds()) if until else 60.0
        elif not served.is_fresh(_attainable_ttl(served, min_ttl)) and state in ("active", "in_doubt"):
            open_for = (
                (resolved.circuit.until - served.now).total_seconds() if resolved.circuit.until else 0.0
            )
            backoff = await claims.backoff_left(self._vault, served.id)
            retry_after = max(1.0, open_for, backoff, _interval_left(served), crowded_for)
        return Refreshed(
            tenant=served.tenant,
            user_id=served.user_id,
            connection=served.connection,
            state=state,
            outcome=outcome,
            renewed=served.access_version != began.access_version,
            expires_at=served.expires_at,
            reason=reason or (resolved.problem.code if resolved.problem else resolved.circuit.code),
            since=served.reason_since,
            retry_after=retry_after,
        )


async def _trace(served: Served, refreshing: Awaitable[Refreshed]) -> Refreshed:
    with traces.span("refresh", tenant=served.tenant, connection=served.connection, grant=served.id) as span:
        refreshed = await refreshing
        span.set(outcome=refreshed.outcome.value)
    return refreshed


def _attainable_ttl(served: Served, min_ttl: float | None) -> float | None:
    """Reduce a wanted life that these tokens never have.

    It becomes half their life: otherwise each such request would cause a call, and bring no longer life.
    """
    if min_ttl is None or served.obtained_from != "renewal":
        return min_ttl
    if not served.expires_at or not served.obtained_at:
        return None
    life = (served.expires_at - served.obtained_at).total_seconds()
    return min_ttl if min_ttl < life else life / 2


def _interval_left(served: Served) -> float:
    """Return seconds until a renewed token may be renewed again."""
    if served.obtained_from != "renewal" or served.obtained_at is None or served.state != "active":
        return 0.0
    life = served.expires_at - served.obtained_at if served.expires_at else 2 * MIN_RENEWAL_INTERVAL
    interval = min(MIN_RENEWAL_INTERVAL, max(life / 2, _SHORTEST_INTERVAL))
    return (served.obtained_at + interval - served.now).total_seconds()


def _is_rejected(served: Served, version: int | None) -> bool:
    """Return whether an API refused this access token."""
    return version == served.access_version and _interval_left(served) <= 0
