"""Records of reads, for the audit.

A thread writes them in batches, so that no read waits for one. A crash of this process loses the records of the last
second.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple
from weakref import WeakSet

from token_vault.database_errors import RETRY_AFTER
from token_vault.errors import TemporarilyUnavailable, VaultError
from token_vault.pool import Pool
from token_vault.postgres_address import PostgresAddress
from token_vault.token_cache import TokenCache

AuditMode = Literal["batched", "strict", "off"]

SERVED = "served"  # the outcome of a read that gave a token

RECORD_READS = "SELECT record_reads(%s::jsonb)"

# Between two batches: a crash loses the records of this time.
FLUSH_SECONDS = 0.5
MAX_BATCH = 500  # records in one statement
# While Postgres cannot be reached, the oldest records beyond this number are dropped: it bounds memory to megabytes.
MAX_PENDING = 20_000
MAX_RETRY_SECONDS = 30.0
# The thread and its connection end when nothing was read for this long.
IDLE_SECONDS = 60.0
# How long closing a reader, or the end of its process, may wait until the last records are written.
CLOSE_SECONDS = 2.0

_logger = logging.getLogger("token_vault")

_recorders: WeakSet[ReadRecorder] = WeakSet()


class ReadRecord(NamedTuple):
    """One read and its outcome; never the token.

    Attributes:
        user_id: empty for an admin token.
        outcome: ``served``, or the name of the error.
        account: the user's id at the provider.
        request_id, reason: as the caller gave them.
        consumer, source: the consumer who reads, and by what, if the command or the HTTP API reads for it.
        at: when, by the monotonic clock.
        reads: the number of reads counted by a cache; the last one was at ``at``.
    """

    user_id: str
    connection: str
    outcome: str
    tenant: str | None = None
    account: str | None = None
    request_id: str | None = None
    reason: str | None = None
    consumer: str | None = None
    source: str | None = None
    at: float | None = None
    reads: int = 1


def to_json(records: Sequence[ReadRecord]) -> str:
    """Encode records for ``record_reads``.

    Each has its age in seconds instead of a time, as the clocks of hosts differ.
    """
    now = time.monotonic()
    return json.dumps(
        [
            {
                "age": 0.0 if record.at is None else now - record.at,
                "source": record.source,
                "reads": record.reads,
                **{
                    name: _storable(value)
                    for name in (
                        "user_id",
                        "connection",
                        "outcome",
                        "tenant",
                        "account",
                        "request_id",
                        "reason",
                        "consumer",
                    )
                    if (value := getattr(record, name)) is not None
                },
            }
            for record in records
        ]
    )


def _storable(value: str) -> str:
    """Replace what Postgres cannot store: NUL, half a surrogate pair."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def counted_reads(cache: TokenCache) -> Iterator[ReadRecord]:
    """Make one record of each token's counted reads."""
    now = time.monotonic()
    for entry, reads in cache.take_reads():
        served = entry.served
        yield ReadRecord(
            served.user_id,
            served.connection,
            SERVED,
            tenant=served.tenant,
            account=served.provider_user_id,
            at=now,
            reads=reads,
        )


class ReadRecorder:
    """Writes records of reads in the background.

    Safe to share between threads.

    Args:
        address: of the vault.

    Attributes:
        collect: returns records of the reads that a cache counted since the last call.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self.collect: Callable[[], Iterable[ReadRecord]] = tuple
        self._pool = Pool(address)
        self._lock = threading.Lock()
        self._pending: deque[ReadRecord] = deque()
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self._process = os.getpid()
        _recorders.add(self)

    def record(self, record: ReadRecord) -> None:
        """Queue a record; drop the oldest if too many wait."""
        with self._lock:
            self._queue(record)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="token-vault audit", daemon=True)
                self._thread.start()

    def record_now(self, record: ReadRecord) -> None:
        """Write a record, and return once it is committed.

        Raises:
            TemporarilyUnavailable: it is not written, and the read must not happen.
        """
        with recording():
            self._pool.rows(RECORD_READS, (to_json([record]),))

    def close(self) -> None:
        """Write the queued records, and close the connection.

        It gives up after ``CLOSE_SECONDS``.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is None:
            self._pool.close()
        else:
            thread.join(CLOSE_SECONDS)

    def close_in_own_process(self) -> None:
        """Close it, unless another process created it.

        After a fork its lock may be held without end, and its thread does not run.
        """
        if self._process == os.getpid():
            self.close()

    def _run(self) -> None:
        failures, idle_since = 0, time.monotonic()
        while True:
            self._wake.wait(min(FLUSH_SECONDS * 2**failures, MAX_RETRY_SECONDS))
            try:
                if self._flush():
                    idle_since = time.monotonic()
                failures = 0
            except (VaultError, RuntimeError) as error:
                if failures == 0:
                    _logger.warning("reads are not recorded for now: %s", error)
                failures = min(failures + 1, 10)
            if self._may_end(idle_since):
                return

    def _may_end(self, idle_since: float) -> bool:
        """Whether the thread ends: it is closed or idle.

        Decided under the lock, so that no record is queued for a thread that is about to end.
        """
        with self._lock:
            if not self._closed and (self._pending or time.monotonic() - idle_since < IDLE_SECONDS):
                return False
            self._thread = None
        if self._closed:
            self._pool.close()
        return True

    def _queue(self, record: ReadRecord) -> None:
        if len(self._pending) >= MAX_PENDING:
            self._dropped += self._pending.popleft().reads
        self._pending.append(record)

    def _flush(self) -> int:
        """Write all queued records; return their number."""
        written = 0
        for record in self.collect():
            with self._lock:
                self._queue(record)
        while batch := self._take():
            try:
                self._pool.rows(RECORD_READS, (to_json(batch),))
            except BaseException:
                self._put_back(batch)
                raise
            written += len(batch)
        return written

    def _take(self) -> list[ReadRecord]:
        with self._lock:
            if self._dropped:
                _logger.warning("%d records of reads are lost: too many waited for Postgres", self._dropped)
                self._dropped = 0
            return [self._pending.popleft() for _ in range(min(MAX_BATCH, len(self._pending)))]

    def _put_back(self, batch: list[ReadRecord]) -> None:
        with self._lock:
            kept = batch[max(0, len(batch) + len(self._pending) - MAX_PENDING) :]
            self._dropped += sum(record.reads for record in batch[: len(batch) - len(kept)])
            self._pending.extendleft(reversed(kept))


@atexit.register
def _write_last_records() -> None:
    for recorder in list(_recorders):
        recorder.close_in_own_process()


@contextmanager
def recording() -> Iterator[None]:
    """Turn a failure to record into the read's failure.

    Raises:
        TemporarilyUnavailable: the read must not happen unrecorded.
    """
    try:
        yield
    except VaultError as error:
        wait = error.retry_after if isinstance(error, TemporarilyUnavailable) else RETRY_AFTER
        raise TemporarilyUnavailable(
            f"the read cannot be recorded, and audit is strict: {error}", wait
        ) from None
