"""Rotates the keys of both rings.

It encrypts everything under the newest keys, and counts how many ciphertexts each key has.

Nothing is stored about a run, as each ciphertext shows its key: after a kill, run it again. Workers, syncs and readers
go on meanwhile: a ciphertext is replaced only if it is still the one that was read, so a token that was renewed
meanwhile is never overwritten by an older one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import psycopg
from psycopg import Connection

from token_vault.connect import connect
from token_vault.database_errors import failure
from token_vault.errors import CannotDecrypt
from token_vault.keyring import KeyRing, RingName
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret
from worker.vault.claims.spool import Spool
from worker.vault.db.engine import SESSION_SETTINGS
from worker.vault.rotation.ciphertext_columns import (
    CIPHERTEXT_COLUMNS,
    CiphertextColumn,
    StoredCiphertext,
    compare_and_swap,
    count_ciphertexts,
    read_pages,
    reread,
)

Progress = Callable[[int, int | None], None]
Rings = Mapping[RingName, KeyRing]

PAGE_SIZE = 500
# How often a row is tried that another transaction has locked, and how many seconds apart.
LOCKED_ROW_TRIES, LOCKED_ROW_PAUSE_SECONDS = 100, 0.05
# Of ciphertexts that no key decrypts, this many are named; all are counted.
MAX_NAMED_PROBLEMS = 20


@dataclass(slots=True)
class RotationStats:
    """Counts of one kind of ciphertext.

    Attributes:
        source: the vault's own secrets, its other rows, or this machine's spool.
        by_key: number of ciphertexts by the position of their key in the ring, 0 for the newest.
        reencrypted: how many were encrypted under the newest key; ``by_key`` counts them there.
        in_use: how many could not be replaced, because another transaction had locked them all the time.
        undecryptable: how many no key decrypts, or belong to another context.
        problems: messages about the first of these.
    """

    ring: RingName
    content: str
    source: Literal["check", "rows", "spool"] = "rows"
    by_key: Counter[int] = field(default_factory=Counter)
    reencrypted: int = 0
    in_use: int = 0
    undecryptable: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def outdated(self) -> int:
        """Return how many may be under an older key."""
        return self.by_key.total() - self.by_key[0] + self.in_use + self.undecryptable

    def add(self, other: RotationStats) -> None:
        """Add other counts of the same kind."""
        self.by_key += other.by_key
        self.reencrypted += other.reencrypted
        self.in_use += other.in_use
        self.undecryptable += other.undecryptable
        self.problems += other.problems[: MAX_NAMED_PROBLEMS - len(self.problems)]

    def count_failure(self, error: CannotDecrypt) -> None:
        """Count a ciphertext that no key decrypts.

        The first ones are named.
        """
        self.undecryptable += 1
        if len(self.problems) < MAX_NAMED_PROBLEMS:
            self.problems.append(str(error))


def are_older_keys_removable(stats: Sequence[RotationStats]) -> bool:
    """Whether no ciphertext of a ring needs its older keys.

    An empty database needs no keys at all, so it is probably the wrong one. Therefore the vault's own secret and at least
    one other row must have been found under the newest key.
    """
    seen = {each.source for each in stats if each.by_key[0]}
    return {"check", "rows"} <= seen and not any(each.outdated for each in stats)


def inspect(
    database_url: Secret,
    rings: Rings,
    spool: Spool | None,
    progress: Progress = lambda _done, _total: None,
    *,
    pages_at_most: int | None = None,
) -> list[RotationStats]:
    """Count the ciphertexts of each key.

    Args:
        rings: the available rings; ciphertexts of others are not read.
        spool: of this machine, with the refresh ring.
        pages_at_most: read at most this many pages of each kind; None for all.

    Raises:
        ConfigurationError, TemporarilyUnavailable: as ``failure`` names the database's.
    """
    with _connected(database_url) as connection:

        def count(column: CiphertextColumn, stats: RotationStats) -> Iterator[int]:
            for page in islice(read_pages(connection, column, PAGE_SIZE), pages_at_most):
                _count(rings[column.ring], page, stats)
                yield len(page)

        total = None if pages_at_most is not None else _count_all(connection, rings)
        all_stats = _process(rings, count, progress, total)
    return [*all_stats, *_spooled(spool, rings, reencrypting=False)]


def rotate(
    database_url: Secret,
    rings: Rings,
    spool: Spool | None,
    progress: Progress = lambda _done, _total: None,
) -> list[RotationStats]:
    """Encrypt everything under the newest keys.

    Each page is committed while the next one is read and encrypted. Arguments and errors as ``inspect``.

    Nothing else in a row changes: no time, state, version or claim; so no event is written either.
    """
    if spool is not None:
        spool.remove_leftovers()
    with (
        _connected(database_url) as reading,
        _connected(database_url) as writing,
        ThreadPoolExecutor(1, thread_name_prefix="token-vault keys") as thread,
    ):

        def reencrypt(column: CiphertextColumn, stats: RotationStats) -> Iterator[int]:
            ring, size, writes = rings[column.ring], 0, None
            for page in read_pages(reading, column, PAGE_SIZE):
                outdated, fresh = _fresh(ring, page, stats)
                if writes is not None:
                    stats.add(writes.result())
                    yield size
                size, writes = len(page), thread.submit(_write, writing, column, ring, outdated, fresh)
            if writes is not None:
                stats.add(writes.result())
                yield size

        all_stats = _process(rings, reencrypt, progress, _count_all(reading, rings))
    return [*all_stats, *_spooled(spool, rings, reencrypting=True)]


def _count_all(connection: Connection[Any], rings: Rings) -> int:
    return sum(count_ciphertexts(connection, column) for column in CIPHERTEXT_COLUMNS if column.ring in rings)


def _process(
    rings: Rings,
    work: Callable[[CiphertextColumn, RotationStats], Iterator[int]],
    progress: Progress,
    total: int | None,
) -> list[RotationStats]:
    """Process all columns of these rings.

    Args:
        work: processes a column, and yields the size of each finished page.
    """
    all_stats, done = [], 0
    for column in CIPHERTEXT_COLUMNS:
        if column.ring not in rings:
            continue
        stats = RotationStats(column.ring, column.content, "check" if column.is_check else "rows")
        all_stats.append(stats)
        for size in work(column, stats):
            done += size
            progress(done, total)
    return all_stats


def _count(ring: KeyRing, page: Sequence[StoredCiphertext], stats: RotationStats) -> None:
    for found in page:
        try:
            stats.by_key[ring.key_index(found.context, found.ciphertext)] += 1
        except CannotDecrypt as error:
            stats.count_failure(error)


def _write(
    connection: Connection[Any],
    column: CiphertextColumn,
    ring: KeyRing,
    outdated: list[StoredCiphertext],
    fresh: list[bytes],
) -> RotationStats:
    """Write a page; return its counts."""
    stats = RotationStats(column.ring, column.content)
    for _ in range(LOCKED_ROW_TRIES):
        if not outdated:
            return stats
        swapped = compare_and_swap(connection, column, outdated, fresh)
        stats.reencrypted += len(swapped)
        stats.by_key[0] += len(swapped)
        left = [found.key for found in outdated if found.key not in swapped]
        if not left:
            return stats
        # These rows were written meanwhile, or are locked by another transaction.
        pending = reread(connection, column, left)
        time.sleep(LOCKED_ROW_PAUSE_SECONDS)
        outdated, fresh = _fresh(ring, pending, stats)
    stats.in_use += len(outdated)
    return stats


def _fresh(
    ring: KeyRing, page: Sequence[StoredCiphertext], stats: RotationStats
) -> tuple[list[StoredCiphertext], list[bytes]]:
    """Encrypt outdated ciphertexts again; count the others.

    Returns:
        The outdated ciphertexts, and their replacements.
    """
    outdated, fresh = [], []
    for found in page:
        try:
            ciphertext = ring.reencrypt(found.context, found.ciphertext)
        except CannotDecrypt as error:
            stats.count_failure(error)
            continue
        if ciphertext is None:
            stats.by_key[0] += 1
        else:
            outdated.append(found)
            fresh.append(ciphertext)
    return outdated, fresh


def _spooled(spool: Spool | None, rings: Rings, *, reencrypting: bool) -> list[RotationStats]:
    """Count the spool's answers, if its ring is available."""
    if spool is None or "refresh" not in rings:
        return []
    stats = RotationStats("refresh", "answers in this machine's spool", "spool")
    for path in spool.list_files():
        try:
            if reencrypting:
                stats.reencrypted += spool.reencrypt(path)
            key_index = spool.key_index(path)
        except CannotDecrypt as error:
            stats.count_failure(error)
        else:
            if key_index is not None:
                stats.by_key[key_index] += 1
    return [stats]


@contextmanager
def _connected(database_url: Secret) -> Iterator[Connection[Any]]:
    """Yield a connection on which each statement commits."""
    address = PostgresAddress.parse(database_url)
    try:
        with connect(address, "token-vault keys", settings=SESSION_SETTINGS, autocommit=True) as connection:
            yield connection
    except psycopg.Error as error:
        raise failure(error) from None
