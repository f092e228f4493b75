"""One grant, now: single-flight with everything else, and no busier at the provider than the batches are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from token_vault.errors import TokenNotFound
from token_vault.read_model import SELECT_GRANT, SELECT_SERVED, Served, choose
from worker.renewal.engine import CLAIM_TIME, RenewalEngine
from worker.renewal.outcome import Outcome
from worker.resolved_connections import ConnectionResolver, ResolvedConnection
from worker.vault import claims, schedule
from worker.vault.connections import circuits
from worker.vault.grants import touch
from worker.vault.vault import Vault

# How long to wait for another worker's call to end, in seconds: longer than any call takes.
WAIT = 50.0


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How a grant stands after an on-demand refresh. Ids, states and times only.

    Attributes:
        renewed: whether a new token came, by this call or another's.
        retry_after: seconds after which trying again is worthwhile, where no fresh token came.
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
        vault: where the grants are.
        connections: resolves each connection's client.
        engine: makes the calls.
        listeners: how many may wait for another worker's call at the same time, each over a connection of its own;
            fewer than the vault has, or nothing could be committed that they wait for.
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
        force: bool = False,
        by_operator: bool = False,
    ) -> Refreshed:
        """Make sure that a grant's token is fresh, and wake whoever waits for it.

        Args:
            tenants: where to look.
            user_id: Auth0's user id; empty for the connection's admin grant.
            connection: the connection's name.
            account: the user's id at the provider; None for the primary identity, or the only one.
            min_ttl: seconds of life wanted; None for the default.
            force: renew even a fresh token, and try a dead grant, once a day at the most.
            by_operator: with force, renew a dead grant at any time, one that waits in backoff or in doubt, or one
                behind an open circuit.

        Raises:
            TokenNotFound: the vault has no such grant.
            AmbiguousAccount: there are several, and no account was named.
        """
        served = await self._find(tenants, user_id, connection, account)
        refreshed = await self._refresh(served, min_ttl, force=force, by_operator=by_operator and force)
        async with self._vault.engine.begin() as open_connection:
            await touch.notify(open_connection, served.id)
        return refreshed

    async def refresh_grant(self, grant_id: int, *, min_ttl: float | None) -> Refreshed:
        """Make sure that a grant's token is fresh; who waits for it is the caller's to wake.

        Raises:
            TokenNotFound: the vault has no such grant.
        """
        return await self._refresh(await self._read(grant_id), min_ttl, force=False, by_operator=False)

    async def _refresh(
        self, served: Served, min_ttl: float | None, *, force: bool, by_operator: bool
    ) -> Refreshed:
        await self._note_read(served)
        began, outcome = served, Outcome.FRESH
        deadline = asyncio.get_running_loop().time() + WAIT
        while True:
            loaded = await self._connections.load([served.tenant], served.connection)
            ready = loaded[served.tenant, served.connection]
            if not force and served.is_fresh(_within_reach(served, min_ttl)):
                break
            if (held_back := await self._held_back(served, ready, force, by_operator)) is not None:
                outcome = held_back
                break
            outcome = await self._engine.renew_one(
                served.id, connection=ready, seen=served.access_version, force=force, by_operator=by_operator
            )
            if outcome is not Outcome.BUSY:
                served = await self._read(served.id)
                break
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            await self._wait(served.id, remaining)
            served = await self._read(served.id)
            if served.obtained_at != began.obtained_at or served.state != began.state:
                force, outcome = False, Outcome.FRESH  # somebody else's call did what was asked for
        return await self._report(served, began, outcome, ready, min_ttl)

    async def _find(
        self, tenants: Sequence[str], user_id: str, connection: str, account: str | None
    ) -> Served:
        rows = await self._select(SELECT_SERVED, (user_id, connection))
        served = choose([row for row in rows if row.tenant in tenants], user_id, account)
        if served is None:
            who = f"user {user_id}" if user_id else "admin"
            raise TokenNotFound(f"the vault has no grant of {who} for connection {connection}")
        return served

    async def _read(self, grant_id: int) -> Served:
        rows = await self._select(SELECT_GRANT, (grant_id,))
        if not rows or rows[0].state == "erased":
            raise TokenNotFound("the vault has this grant no more")
        return rows[0]

    async def _select(self, statement: str, values: tuple[object, ...]) -> list[Served]:
        async with self._vault.engine.connect() as connection:
            raw = await connection.exec_driver_sql(statement, values)
            return [Served._make(row) for row in raw.all()]

    async def _note_read(self, served: Served) -> None:
        """Note that the grant is wanted, where that decides whether it is kept fresh.

        One that was noted before is noted again whatever decides now: its readers go on telling until it is.
        """
        if served.last_read_at is not None and not served.wants_notice:
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

    async def _held_back(
        self, served: Served, ready: ResolvedConnection, force: bool, by_operator: bool
    ) -> Outcome | None:
        """Why no call may be made now, if so."""
        if ready.client is None or served.state == "unrenewable":
            return Outcome.UNRENEWABLE
        if by_operator:
            return None
        if served.state == "reauthorization_required" and not (
            force and await claims.may_be_forced(self._vault, served.id, now=served.now)
        ):
            return Outcome.DEAD
        paused = await claims.backoff_left(self._vault, served.id) > 0
        if await self._is_blocked(served, ready, paused):
            return Outcome.BLOCKED if ready.circuit.blame == "operator" else Outcome.RETRY
        if paused:
            return Outcome.IN_DOUBT if served.state == "in_doubt" else Outcome.RETRY
        return None

    async def _is_blocked(self, served: Served, ready: ResolvedConnection, paused: bool) -> bool:
        """Whether the connection's open circuit forbids a call; when its own pause is over, it is due one."""
        if ready.circuit.until is None or (paused and ready.circuit.until <= served.now):
            return False
        return not await circuits.claim_probe(
            self._vault,
            tenant=served.tenant,
            name=served.connection,
            now=served.now,
            until=served.now + CLAIM_TIME,
        )

    async def _wait(self, grant_id: int, seconds: float) -> None:
        """Wait until the claim that another worker holds has ended, or the time is up."""
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
        ready: ResolvedConnection,
        min_ttl: float | None,
    ) -> Refreshed:
        state, retry_after = served.state, None
        if ready.client is None:
            state = "unrenewable"
        elif outcome is Outcome.BLOCKED:
            state = "blocked"
            until = ready.circuit.until
            retry_after = max(1.0, (until - served.now).total_seconds()) if until else 60.0
        elif not served.is_fresh(_within_reach(served, min_ttl)) and state in ("active", "in_doubt"):
            closed_for = (ready.circuit.until - served.now).total_seconds() if ready.circuit.until else 0.0
            retry_after = max(1.0, closed_for, await claims.backoff_left(self._vault, served.id))
        return Refreshed(
            tenant=served.tenant,
            user_id=served.user_id,
            connection=served.connection,
            state=state,
            outcome=outcome,
            renewed=served.access_version != began.access_version,
            expires_at=served.expires_at,
            reason=served.reason or (ready.problem.code if ready.problem else ready.circuit.code),
            since=served.reason_since,
            retry_after=retry_after,
        )


def _within_reach(served: Served, min_ttl: float | None) -> float | None:
    """Who wants more life than the provider's tokens ever have gets half of it: each call would bring no more."""
    if (
        min_ttl is None
        or served.obtained_from != "renewal"
        or not served.expires_at
        or not served.obtained_at
    ):
        return min_ttl
    life = (served.expires_at - served.obtained_at).total_seconds()
    return min_ttl if min_ttl < life else life / 2
