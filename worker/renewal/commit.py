"""Commits answers; writes them to disk while Postgres is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from token_vault.errors import CannotDecrypt
from worker.renewal.group_commit import GroupCommit
from worker.renewal.outcome import Outcome, is_told_as_failing
from worker.token_pair import TokenPair
from worker.vault import claims, schedule
from worker.vault.claims import Claim, ObtainedPair
from worker.vault.claims.spool import Spool
from worker.vault.db.errors import explain
from worker.vault.vault import Vault

log = structlog.get_logger(__name__)

# A commit that fails is repeated for this long; then the next run replays the answer from disk.
COMMIT_RETRY_SECONDS = 30.0
# Between two attempts to commit an answer, or to reach a Postgres that is away; doubled each time.
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0
# A commit that takes longer may be waiting on a dead connection: the answer is written to disk as well.
SLOW_COMMIT_SECONDS = 1.0

# A crash loses uncommitted answers. So no further request is sent while this many answers wait for their commit, or
# while the event loop lags this much and leaves answers in their sockets.
MAX_PENDING_ANSWERS = 8
MAX_LOOP_LAG_SECONDS = 0.02
# About the time of one commit: how long to wait before the next check.
COMMIT_SECONDS = 0.002


def growing_pauses() -> Iterator[float]:
    """Yield seconds to wait after each failure of Postgres."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 2, MAX_PAUSE_SECONDS)


class AnswerCommitter:
    """Stores answers in one vault.

    Args:
        vault: stores the answers.
        spool: keeps them on disk while Postgres is away.
        jitter: returns a uniform random number, 0 to 1; it spreads the next due times.
    """

    def __init__(self, vault: Vault, spool: Spool, jitter: Callable[[], float]) -> None:
        self._vault = vault
        self._group = GroupCommit(vault)
        self._spool = spool
        self._jitter = jitter
        self._replaying = asyncio.Lock()
        self._postgres_is_up = asyncio.Event()
        self._postgres_is_up.set()
        self._capacity_check = asyncio.Lock()
        self._pending = 0

    async def wait_for_commit_capacity(self, has_time: Callable[[], bool]) -> None:
        """Wait until an answer could be committed at once.

        Args:
            has_time: whether there is still time for a call; the wait ends when there is not.
        """
        await self._wait_for_postgres(has_time)
        async with self._capacity_check:
            while has_time():
                if self._pending >= MAX_PENDING_ANSWERS:
                    await asyncio.sleep(COMMIT_SECONDS)
                elif await _loop_lag() <= MAX_LOOP_LAG_SECONDS:
                    return

    async def _wait_for_postgres(self, has_time: Callable[[], bool]) -> None:
        """Wait until Postgres accepts commits.

        It is asked, as no commit may be under way that would show it: one may have been cancelled.
        """
        pauses = growing_pauses()
        while not self._postgres_is_up.is_set() and has_time():
            try:
                await self._vault.check_writable()
            except (SQLAlchemyError, OSError):
                await asyncio.sleep(next(pauses))
            else:
                self._postgres_is_up.set()

    def keep_connection(self) -> AbstractAsyncContextManager[None]:
        """Commit over one connection until the block ends."""
        return self._group.connection.keep()

    def check(self) -> None:
        """Check that an answer could be written to disk.

        Raises:
            ConfigurationError: the spool cannot be written.
        """
        self._spool.check()

    async def replay(self) -> int:
        """Store the answers on disk; return how many were stored."""
        async with self._replaying:
            return await self._replay()

    async def _replay(self) -> int:
        stored = 0
        for path in self._spool.list_answers():
            try:
                answer = self._spool.read(path)
                if answer is None:
                    continue
                await claims.store_pair(
                    self._vault,
                    answer.claim,
                    answer.pair,
                    obtained_at=answer.obtained_at,
                    due_at=answer.due_at,
                )
            except CannotDecrypt as error:
                # The file stays until the operator puts the key back; the other answers are stored.
                log.error("spool.decrypt_failed", file=path.name, error=str(error))  # noqa: TRY400
                continue
            except ProgrammingError as error:
                # The operator has to fix a missing right or table; then the answer is stored.
                log.error("spool.answer_not_stored", file=path.name, error=str(explain(error)))  # noqa: TRY400
                continue
            except (IntegrityError, DataError) as error:
                rejected = self._spool.reject(path)
                log.error("spool.answer_rejected", file=rejected.name, error=type(error).__name__)  # noqa: TRY400
                continue
            self._spool.remove(path)
            log.info("spool.answer_stored", grant=answer.claim.id)
            stored += 1
        return stored

    async def store(
        self,
        claim: Claim,
        pair: TokenPair,
        *,
        sent_at: datetime,
        policy: schedule.RenewalPolicy,
        life: timedelta | None = None,
    ) -> Outcome:
        """Commit a pair; spool it if Postgres cannot take it.

        Args:
            sent_at: when the request was sent, on the database's clock.
            policy: how the connection's grants are kept fresh.
            life: how long the connection's tokens live, as observed.

        Returns:
            ``RENEWED``, ``RETRY`` for a refresh token alone, ``SUPERSEDED`` by a newer login, or ``SPOOLED``.
        """
        lives = [known for known in (claim.life, life) if known is not None]
        if pair.expires_at is None and lives and not pair.lacks_access:
            # The answer does not name the token's life: assume the shortest known.
            pair = replace(pair, expires_at=sent_at + min(lives))
        pair = replace(pair, counted_consent_end=_count_consent_end(claim, pair, policy, sent_at))
        due_at = self._due_at(claim, pair, sent_at, policy)
        self._pending += 1
        try:
            outcome = await self._commit(claim, pair, sent_at, due_at)
        finally:
            self._pending -= 1
        if pair.lacks_access:
            log.warning("access_token.omitted", grant=claim.id, connection=claim.key.connection)
        return outcome

    def _due_at(
        self, claim: Claim, pair: TokenPair, sent_at: datetime, policy: schedule.RenewalPolicy
    ) -> datetime:
        if pair.lacks_access:
            return schedule.after_failure(claim.attempts + 1, sent_at, self._jitter())
        if not claim.target.is_default:
            return claims.unchanged_due_at(claim, sent_at, self._jitter(), policy)
        return schedule.after_renewal(
            pair.expires_at, sent_at, self._jitter(), policy, last_read_at=claim.last_read_at,
            refresh_expires_at=pair.refresh_expires_at or (None if pair.refresh else claim.refresh_expires_at),
        )  # fmt: skip

    async def _commit(self, claim: Claim, pair: TokenPair, sent_at: datetime, due_at: datetime) -> Outcome:
        """Repeat the commit until the pair is stored or spooled."""
        is_failing = pair.lacks_access and is_told_as_failing(claim, now=sent_at, due_at=due_at)
        give_up_at, pauses = time.monotonic() + COMMIT_RETRY_SECONDS, growing_pauses()
        spooled: Path | None = None

        def spool(error: str) -> None:
            nonlocal spooled
            self._postgres_is_up.clear()
            log.warning("answer.commit_failed", grant=claim.id, error=error)
            spooled = spooled or self._write_to_disk(claim, pair, sent_at, due_at)

        while True:
            try:
                with _after(SLOW_COMMIT_SECONDS, spool, "slow"):
                    stored = await self._group.store(ObtainedPair(claim, pair, sent_at, due_at, is_failing))
            except asyncio.CancelledError:
                spool("cancelled")  # this process ends, and does not know whether Postgres stored the answer
                raise
            except (SQLAlchemyError, OSError) as error:
                spool(type(error).__name__)
                # If the disk failed too, memory has the only copy: repeat the commit as long as this process lives.
                if spooled and time.monotonic() > give_up_at:
                    return Outcome.SPOOLED
                await asyncio.sleep(next(pauses))
            else:
                self._postgres_is_up.set()
                replayed = spooled is not None and not self._spool.remove(spooled)
                if not stored and not replayed:
                    return Outcome.SUPERSEDED
                return Outcome.RETRY if pair.lacks_access else Outcome.RENEWED

    def _write_to_disk(
        self, claim: Claim, pair: TokenPair, sent_at: datetime, due_at: datetime
    ) -> Path | None:
        """Spool an answer; return None if that fails too."""
        try:
            return self._spool.save(claim, pair, obtained_at=sent_at, due_at=due_at)
        except OSError as error:
            log.error("spool.write_failed", grant=claim.id, error=error.strerror)  # noqa: TRY400
            return None


def _count_consent_end(
    claim: Claim, pair: TokenPair, policy: schedule.RenewalPolicy, sent_at: datetime
) -> datetime | None:
    """Return the end of a consent by its declared life.

    An end that has passed is refuted by the answer.
    """
    if pair.consent_expires_at is not None or policy.absolute_life is None or claim.consented_at is None:
        return None
    end = claim.consented_at + policy.absolute_life
    return end if end > sent_at else None


@contextmanager
def _after(seconds: float, call: Callable[[str], None], argument: str) -> Iterator[None]:
    """Call a function if the block takes longer than this."""
    timer = asyncio.get_running_loop().call_later(seconds, call, argument)
    try:
        yield
    finally:
        timer.cancel()


async def _loop_lag() -> float:
    """Measure one iteration of the event loop, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    return loop.time() - began
