"""Commits a provider's answers, and sees to it that none is lost while Postgres is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from token_vault.errors import CannotDecrypt
from worker.renewal.outcome import Outcome
from worker.token_pair import TokenPair
from worker.vault import claims, schedule
from worker.vault.claims import Claim
from worker.vault.db.database import Vault
from worker.vault.spool import Spool

log = structlog.get_logger(__name__)

# An answer that Postgres cannot take is offered again for this long, in seconds; then the next run replays it.
COMMIT_RETRY_SECONDS = 30.0
# Between two offers, in seconds.
MAX_PAUSE_SECONDS = 5.0
# A commit that takes longer may be waiting on a dead line: by then the answer is on disk as well, in seconds.
SLOW_COMMIT_SECONDS = 1.0

# Who dies loses the answers that are not committed, so they must not queue up: while so many wait for their commit, or
# the event loop takes so many seconds for one round and leaves others in their sockets, no more are asked for.
MAX_PENDING_ANSWERS = 8
MAX_LOOP_LAG_SECONDS = 0.02
# A commit takes so many seconds.
COMMIT_SECONDS = 0.002


class AnswerCommitter:
    """Stores answers in one vault.

    Args:
        vault: where they go.
        spool: where they wait meanwhile.
        jitter: 0 to 1, uniform; spreads the next due times.
    """

    def __init__(self, vault: Vault, spool: Spool, jitter: Callable[[], float]) -> None:
        self._vault = vault
        self._spool = spool
        self._jitter = jitter
        self._replaying = asyncio.Lock()
        self._up = asyncio.Event()
        self._up.set()
        self._turn = asyncio.Lock()
        self._pending = 0

    async def wait_for_commit_capacity(self, has_time: Callable[[], bool]) -> None:
        """Wait until an answer can be committed as soon as it is there, as long as there is still time for a call."""
        await self._back(has_time)
        async with self._turn:
            while has_time():
                if self._pending >= MAX_PENDING_ANSWERS:
                    await asyncio.sleep(COMMIT_SECONDS)
                elif await _round() <= MAX_LOOP_LAG_SECONDS:
                    return

    async def _back(self, has_time: Callable[[], bool]) -> None:
        """Wait until Postgres is back. It is asked itself: a commit that was given up on says nothing of it."""
        pause = 0.2
        while not self._up.is_set() and has_time():
            try:
                await self._vault.now()
            except (SQLAlchemyError, OSError):
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)
            else:
                self._up.set()

    def check(self) -> None:
        """Make sure that an answer could be kept on disk.

        Raises:
            ConfigurationError: the spool cannot be written.
        """
        self._spool.check()

    async def replay(self) -> int:
        """Store the answers that Postgres could not take when they came; returns how many were stored."""
        async with self._replaying:
            return await self._replay()

    async def _replay(self) -> int:
        stored = 0
        for path in self._spool.waiting():
            try:
                answer = self._spool.read(path)
                if answer is None:
                    continue
                await claims.store_renewed(
                    self._vault,
                    answer.claim,
                    answer.pair,
                    obtained_at=answer.obtained_at,
                    due_at=answer.due_at,
                )
            except CannotDecrypt as error:
                # It stays: the operator puts the key back. Others are stored meanwhile.
                log.error("spool.unreadable", file=path.name, problem=str(error))  # noqa: TRY400
                continue
            except (IntegrityError, DataError, ProgrammingError) as error:
                log.error("spool.rejected", file=self._spool.reject(path).name, problem=type(error).__name__)  # noqa: TRY400
                continue
            self._spool.drop(path)
            log.info("spool.stored", grant=answer.claim.id)
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
        """Commit the pair. Where Postgres cannot take it, it goes to disk first, and is then offered again.

        Args:
            sent_at: when the request was sent, on the database's clock.
            policy: how the connection's grants are kept.
            life: how long the connection's tokens live, as other answers have said.

        Returns:
            ``RENEWED``, ``SUPERSEDED`` by a newer login, or ``SPOOLED``.
        """
        life = claim.life or life
        if pair.expires_at is None and life is not None:
            # A provider that leaves the life out for once has not made it longer.
            pair = replace(pair, expires_at=sent_at + life)
        due_at = schedule.after_renewal(
            pair.expires_at, sent_at, self._jitter(), policy, last_read_at=claim.last_read_at,
            refresh_expires_at=pair.refresh_expires_at or (None if pair.refresh else claim.refresh_expires_at),
        )  # fmt: skip
        self._pending += 1
        try:
            return await self._offer(claim, pair, sent_at, due_at)
        finally:
            self._pending -= 1

    async def _offer(self, claim: Claim, pair: TokenPair, sent_at: datetime, due_at: datetime) -> Outcome:
        """Offer an answer to Postgres until it is stored, or on disk and given up on."""
        give_up, pause = time.monotonic() + COMMIT_RETRY_SECONDS, 0.2
        spooled: Path | None = None

        def keep(problem: str) -> None:
            nonlocal spooled
            self._up.clear()
            log.warning("renew.commit_failed", grant=claim.id, problem=problem)
            spooled = spooled or self._kept(claim, pair, sent_at, due_at)

        while True:
            try:
                with _later(SLOW_COMMIT_SECONDS, keep, "slow"):
                    stored = await claims.store_renewed(
                        self._vault, claim, pair, obtained_at=sent_at, due_at=due_at
                    )
            except asyncio.CancelledError:
                keep("cancelled")  # this process ends, and nobody will hear whether Postgres took it
                raise
            except (SQLAlchemyError, OSError) as error:
                keep(type(error).__name__)
                # What is on no disk either is offered for as long as this process lives.
                if spooled and time.monotonic() > give_up:
                    return Outcome.SPOOLED
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)
            else:
                self._up.set()
                replayed = spooled is not None and not self._spool.drop(spooled)
                return Outcome.RENEWED if stored or replayed else Outcome.SUPERSEDED

    def _kept(self, claim: Claim, pair: TokenPair, sent_at: datetime, due_at: datetime) -> Path | None:
        """Put the answer on disk; None where the disk does not take it either."""
        try:
            return self._spool.keep(claim, pair, obtained_at=sent_at, due_at=due_at)
        except OSError as error:
            log.error("spool.failed", grant=claim.id, problem=error.strerror)  # noqa: TRY400
            return None


@contextmanager
def _later(seconds: float, do: Callable[[str], None], word: str) -> Iterator[None]:
    """Do something where the block takes longer."""
    timer = asyncio.get_running_loop().call_later(seconds, do, word)
    try:
        yield
    finally:
        timer.cancel()


async def _round() -> float:
    """How long the event loop takes for one round, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    return loop.time() - began
