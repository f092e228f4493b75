"""Renews grants: claim, call, commit. No step comes between a provider's answer and its commit."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError

from worker import providers
from worker.connections import Connection, Connections
from worker.errors import CannotOpen
from worker.providers import CLIENT_REFUSED, RefreshRequest, Refused, Renewed
from worker.renew.outcome import (
    NOTHING_TO_SPEND,
    UNKNOWN_TRIES,
    Decision,
    Outcome,
    decide,
    unreadable,
    wait_in_doubt,
)
from worker.renew.sending import CALL_TIMEOUT, Answer, send
from worker.renew.storing import Storing
from worker.tokens import TokenPair
from worker.vault import claims, due, records
from worker.vault import connections as circuits
from worker.vault.claims import Claim
from worker.vault.database import Vault
from worker.vault.spool import Spool

log = structlog.get_logger(__name__)

# A claim outlives any call made under it: a request is sent only while a whole call still fits in.
CLAIM_TIME = timedelta(seconds=4 * CALL_TIMEOUT)
# Renewals under way in one process at a time, and for one connection: a slow provider leaves room to the others.
WINDOW = 128
PER_CONNECTION = 32
# A call that takes longer, in seconds, hangs: it leaves its room in the window to others, and its connection gets no more.
HANGING = 5.0

Key = tuple[str, str]
Progress = Callable[[Outcome], None]


@dataclass(slots=True)
class _Lane:
    """One connection during one run.

    Its first call goes alone, so that a wrong secret costs one call. Each answer of the provider's own doubles the
    room for further calls, each failure halves it.
    """

    connection: Connection
    slots: int = 1
    suspicious: bool = False
    away: bool = False
    hold_doubt: bool = True
    wanted: bool = False
    learned: dict[str, Any] | None = None
    broken: bool = False
    done: bool = False
    began: dict[int, float] = field(default_factory=dict)
    """Calls under way: when each began, by grant, in seconds of the event loop's clock."""

    @property
    def in_flight(self) -> int:
        return len(self.began)

    def hanging(self, at: float) -> int:
        return sum(at - began > HANGING for began in self.began.values())

    def grow(self) -> None:
        self.slots = min(self.slots * 2, PER_CONNECTION)

    def shrink(self) -> None:
        self.slots = max(self.slots // 2, 1)


class Engine:
    """Renews grants of one vault over one HTTP client.

    Args:
        vault: where the grants are.
        connections: resolves each connection's client.
        http: as ``sending.http_client`` makes it.
        spool: keeps answers that Postgres cannot take.
        now: the time; by default the database's clock.
        chance: 0 to 1, uniform.
    """

    def __init__(
        self,
        vault: Vault,
        connections: Connections,
        http: httpx.AsyncClient,
        spool: Spool,
        *,
        now: Callable[[], datetime] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._vault = vault
        self._connections = connections
        self._http = http
        self._storing = Storing(vault, spool, chance)
        self._now = now
        self._chance = chance

    async def renew_due(
        self, tenants: Sequence[str], *, budget: float = 50.0, progress: Progress | None = None
    ) -> Counter[Outcome]:
        """Renew all that is due, with bounded concurrency, until nothing is due or the time is up.

        Args:
            tenants: whose grants.
            budget: seconds after which no more is claimed.
            progress: called with the outcome of each renewal.

        Returns:
            How many renewals came to what.

        Raises:
            ConfigurationError: the spool cannot be written, and no request is made.
        """
        clock = await self._prepared()
        stop_at = time.monotonic() + budget
        loaded = await self._connections.load(list(tenants), now=clock())
        lanes = {key: _Lane(connection) for key, connection in loaded.items() if connection.client}
        counts: Counter[tuple[str, str, str]] = Counter()
        running: set[asyncio.Task[tuple[Claim, Outcome]]] = set()
        failure: Exception | None = None
        due_by = clock()  # what falls due during the run is the next one's, a retry at once included
        try:
            while True:
                lively = len(running) - sum(lane.hanging(_loop_time()) for lane in lanes.values())
                ready = _with_room(lanes) if time.monotonic() < stop_at and lively <= WINDOW // 2 else {}
                if ready and failure is None:
                    try:
                        claimed = await self._claim(ready, WINDOW - lively, clock, due_by)
                    except Exception as error:
                        # What is under way is seen to its end before the failure is told.
                        claimed, failure = [], error
                    running |= {
                        asyncio.create_task(self._in_lane(lanes[_key(claim)], claim, clock))
                        for claim in claimed
                    }
                    continue
                if not running:
                    break
                # Looked at again even without an end: calls that begin to hang make room for others.
                done, running = await asyncio.wait(
                    running, timeout=HANGING / 5, return_when=asyncio.FIRST_COMPLETED
                )
                for claim, outcome in map(asyncio.Task.result, done):
                    counts[claim.key.tenant, claim.key.connection, outcome] += 1
                    if progress:
                        progress(outcome)
        finally:
            if running:  # interrupted: a call under way is seen to its end, as its answer may be the only one
                await asyncio.wait(running)
        if failure is not None:
            raise failure
        await self._count(counts, clock)
        return _by_outcome(counts)

    async def renew_one(
        self,
        grant_id: int,
        *,
        connection: Connection,
        seen: int | None = None,
        force: bool = False,
        by_operator: bool = False,
    ) -> Outcome:
        """Renew one grant now, whatever its due time.

        Args:
            seen: the version of the access token that is to be replaced.
            force: use a dead grant's refresh token too, once a day at the most.
            by_operator: use it at any time, and one in backoff, and one whose last use is in doubt.

        Returns:
            ``BUSY`` where another worker holds it, or where the grant has changed since the caller saw it.

        Raises:
            ConfigurationError: as ``renew_due``.
        """
        clock = await self._prepared()
        if connection.client is None:
            return Outcome.UNRENEWABLE
        now = clock()
        claim = await claims.claim_one(
            self._vault, grant_id, owner=uuid4(), now=now, until=now + CLAIM_TIME, seen=seen, force=force,
            by_operator=by_operator,
        )  # fmt: skip
        if claim is None:
            return Outcome.BUSY
        lane = _Lane(connection, hold_doubt=not by_operator, wanted=True)
        renewing = asyncio.create_task(self._in_lane(lane, claim, clock))
        try:
            _, outcome = await asyncio.shield(renewing)
        finally:
            await asyncio.wait([renewing])  # interrupted: as above
        await self._count({(claim.key.tenant, claim.key.connection, outcome): 1}, clock)
        return outcome

    async def _prepared(self) -> Callable[[], datetime]:
        """Before anything is claimed: what was spooled is stored, and the spool can take what may come."""
        await self._storing.replay()
        self._storing.check()
        return await self._clock()

    async def _clock(self) -> Callable[[], datetime]:
        """A clock that runs from the database's time, so that the workers' own clocks may be wrong."""
        if self._now is not None:
            return self._now
        began, at = await self._vault.now(), _ticks()
        return lambda: began + timedelta(seconds=_ticks() - at)

    async def _claim(
        self, lanes: dict[Key, _Lane], limit: int, clock: Callable[[], datetime], due_by: datetime
    ) -> list[Claim]:
        quotas = {key: lane.slots - lane.in_flight for key, lane in lanes.items()}
        now = clock()
        claimed = await claims.claim_due(
            self._vault, quotas, owner=uuid4(), now=now, until=now + CLAIM_TIME, limit=limit, due_by=due_by
        )
        for claim in claimed:
            lanes[_key(claim)].began[claim.id] = _loop_time()
        taken = Counter(map(_key, claimed))
        for key, lane in lanes.items():
            # Fewer than asked for: no more of this connection is due. What falls due meanwhile is the next run's.
            lane.done = taken[key] < quotas[key] and len(claimed) < limit
        return claimed

    async def _in_lane(
        self, lane: _Lane, claim: Claim, clock: Callable[[], datetime]
    ) -> tuple[Claim, Outcome]:
        try:
            return claim, await self._renew(lane, claim, clock)
        except Exception:
            # Whatever it was, the claim stays: past its deadline the grant counts as in doubt, as it should.
            log.exception("renew.failed", grant=claim.id, connection=claim.key.connection)
            return claim, Outcome.FAILED
        finally:
            lane.began.pop(claim.id, None)

    async def _renew(self, lane: _Lane, claim: Claim, clock: Callable[[], datetime]) -> Outcome:
        def in_time() -> bool:
            return clock() + timedelta(seconds=CALL_TIMEOUT) < claim.until

        await self._storing.possible(in_time)  # while answers cannot be committed, no more are asked for
        now, client, provider = clock(), lane.connection.client, lane.connection.provider
        if client is None or provider is None or lane.broken or not in_time():
            await claims.release_unspent(self._vault, [claim], due_at=now)
            return Outcome.UNSENT
        # The attempt begins here: what came before was waiting.
        claim = replace(claim, began=now)
        request = self._request(lane, client, provider, claim, now)
        if isinstance(request, Decision):
            await claims.release(self._vault, claim, **request.columns)
            if lane.connection.circuit_opened_at is not None:
                await circuits.probe_again(
                    self._vault, tenant=claim.key.tenant, name=claim.key.connection, now=now
                )
            return request.outcome
        if claim.doubt_since is not None and not await claims.still_holds(self._vault, claim):
            return Outcome.SUPERSEDED
        result = await self._call(provider, request, now, in_time)
        if isinstance(result, Refused):
            return await self._refused(lane, claim, provider, result, clock)
        stored = lane.connection.stored
        outcome = await self._storing.store(
            claim, result.pair, sent_at=now, upkeep=lane.connection.upkeep, life=stored.seen_life
        )
        if outcome is Outcome.SPOOLED:
            lane.done = True  # Postgres is away: no more is claimed
        else:
            lane.grow()
            await self._trust(lane, clock)
            await self._learn(lane, claim, result.pair, now)
        return outcome

    async def _learn(self, lane: _Lane, claim: Claim, pair: TokenPair, sent_at: datetime) -> None:
        """Keep what the answer has shown of its provider, where that is new."""
        stored, provider = lane.connection.stored, lane.connection.provider
        life, refresh_life = (end and end - sent_at for end in (pair.expires_at, pair.refresh_expires_at))
        news: dict[str, Any] = {}
        if pair.refresh and provider and not (provider.rotates or provider.keeps_old_refresh):
            news["rotating"] = pair.refresh != claims.open_refresh(self._vault, claim)
        for name, seen, shown in (
            ("life", stored.seen_life, life), ("refresh_life", stored.seen_refresh_life, refresh_life)
        ):  # fmt: skip
            if shown and (seen is None or shown < seen * 0.9):  # lives that differ a little are no news
                news[name] = shown
        if any(news.values()) and lane.learned != news:
            lane.learned = news
            try:
                await circuits.learn(self._vault, tenant=claim.key.tenant, name=claim.key.connection, **news)
            except (SQLAlchemyError, OSError) as error:  # the next answer shows it again
                log.warning("renew.unlearned", problem=type(error).__name__)

    def _request(
        self,
        lane: _Lane,
        client: providers.Client,
        provider: providers.Provider,
        claim: Claim,
        now: datetime,
    ) -> RefreshRequest | Decision:
        """The request for this claim, or why there is none to be made."""
        if lane.hold_doubt and not lane.wanted and (asleep := self._asleep(lane, claim, now)):
            return asleep
        if lane.hold_doubt and (waiting := wait_in_doubt(claim, provider, now=now)):
            return waiting
        try:
            refresh = claims.open_refresh(self._vault, claim)
            access = None if provider.needs_refresh_token else claims.open_access(self._vault, claim)
        except CannotOpen as error:
            log.error(  # noqa: TRY400  # the message says it all
                "renew.unreadable", grant=claim.id, connection=claim.key.connection, problem=str(error)
            )
            return unreadable(claim, now)
        if refresh is None and (provider.needs_refresh_token or access is None):
            return NOTHING_TO_SPEND
        return provider.request(client, access=access, refresh=refresh)

    def _asleep(self, lane: _Lane, claim: Claim, now: datetime) -> Decision | None:
        """When to look again at a grant that nobody reads and whose refresh token is in no danger."""
        upkeep = lane.connection.upkeep
        if claim.state != "active" or not upkeep.sleeps(claim.last_read_at, now) or claim.attempts:
            return None
        if claim.doubt_since is not None or claim.obtained_at is None:
            return None
        alive = due.while_alive(claim.obtained_at, self._chance(), upkeep, claim.refresh_expires_at)
        if alive <= now or due.while_alive(claim.obtained_at, 1, upkeep, claim.refresh_expires_at) <= now:
            return None
        return Decision(Outcome.UNSENT, False, {"due_at": alive})

    async def _call(
        self,
        provider: providers.Provider,
        request: RefreshRequest,
        sent_at: datetime,
        in_time: Callable[[], bool],
    ) -> Renewed | Refused:
        answer = await send(self._http, request, in_time)
        if isinstance(answer, Answer):
            return provider.read(answer.status, answer.headers, answer.body, sent_at=sent_at)
        return providers.unreachable("sent" if answer.sent else "not_sent", provider, answer.code)

    async def _count(self, counts: Mapping[tuple[str, str, str], int], clock: Callable[[], datetime]) -> None:
        """Count for ``status``; what was renewed stays renewed where Postgres has no ear for it."""
        try:
            await records.count_renewals(self._vault, counts, now=clock())
        except (SQLAlchemyError, OSError) as error:
            log.warning("renew.uncounted", problem=type(error).__name__)

    async def _trust(self, lane: _Lane, clock: Callable[[], datetime]) -> None:
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

    async def _is_the_connections(self, lane: _Lane, claim: Claim, refused: Refused) -> bool:
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
        lane: _Lane,
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

    async def _is_there(
        self,
        lane: _Lane,
        claim: Claim,
        provider: providers.Provider,
        outcome: Outcome,
        clock: Callable[[], datetime],
    ) -> None:
        """A verdict on one grant: the provider answers for itself, and takes the client."""
        connection = lane.connection
        if connection.circuit_blame == "nobody":
            await circuits.close_circuit(
                self._vault, tenant=connection.tenant, name=connection.name, now=clock()
            )
        elif connection.away or lane.away:
            lane.away = False
            await circuits.count_back(self._vault, tenant=connection.tenant, name=connection.name)
        if outcome is Outcome.LOST and provider.grace and claim.doubt_since:
            lasted = (claim.began - claim.doubt_since).total_seconds()
            if lasted < provider.grace:  # refused within what was said to be its grace
                await circuits.learn(
                    self._vault, tenant=claim.key.tenant, name=claim.key.connection, grace=max(lasted, 0)
                )

    async def _refused(
        self,
        lane: _Lane,
        claim: Claim,
        provider: providers.Provider,
        refused: Refused,
        clock: Callable[[], datetime],
    ) -> Outcome:
        now = clock()
        decision: Decision = decide(refused, claim, provider, now=now, chance=self._chance())
        released = await claims.release(self._vault, claim, **decision.columns)
        outcome = decision.outcome
        if not released and outcome is Outcome.LOST:
            await claims.refused_after_all(self._vault, claim, now=now)
        if decision.away:
            lane.shrink()
            lane.away = True
            if await circuits.count_away(self._vault, tenant=claim.key.tenant, name=claim.key.connection):
                await self._break(lane, claim, refused, now, blame="nobody")
        elif not decision.opens_circuit:
            lane.grow()
            await self._is_there(lane, claim, provider, outcome, clock)
        elif await self._is_the_connections(lane, claim, refused):
            await self._break(lane, claim, refused, now, blame="operator")
        else:
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


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _ticks() -> float:
    """Seconds that also pass while the machine sleeps, where the system counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _with_room(lanes: dict[Key, _Lane]) -> dict[Key, _Lane]:
    """The connections that may have more to renew, and room for a worthwhile number of calls."""
    return {
        key: lane
        for key, lane in lanes.items()
        if not lane.done
        and not lane.broken
        and lane.in_flight <= lane.slots // 2
        and not lane.hanging(_loop_time())
    }


def _key(claim: Claim) -> Key:
    return claim.key.tenant, claim.key.connection


def _by_outcome(counts: Counter[tuple[str, str, str]]) -> Counter[Outcome]:
    total: Counter[Outcome] = Counter()
    for (_, _, outcome), count in counts.items():
        total[Outcome(outcome)] += count
    return total
