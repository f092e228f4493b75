"""A thread that checks a reader's cached tokens."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

from token_vault.errors import VaultError
from token_vault.pool import Pool
from token_vault.postgres_address import PostgresAddress
from token_vault.read_model import HASH_SERVED, HASH_SERVED_TARGETS
from token_vault.token_cache import CHECK_SECONDS, CacheCheck, CachedToken, TokenCache


class CacheChecks:
    """Checks all entries every half second while there are any.

    Args:
        address: of the vault, directly or through a pooler.
        counts: whether reads from the cache are counted for the audit.
    """

    def __init__(self, address: PostgresAddress, *, counts: bool) -> None:
        self.cache = TokenCache(self._start, counts=counts)
        self._pool = Pool(address)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop checking; the cache serves nothing from now on."""
        self._closed.set()
        self.cache.clear()
        self._pool.close()

    def check(self) -> bool:
        """Compare all entries with the vault; False without entries."""
        check = self.cache.begin_check()
        if check is None:
            return False
        try:
            database_now, hashes = self._read(check)
        except (VaultError, RuntimeError):  # RuntimeError: the reader was closed meanwhile
            self.cache.clear()
        else:
            self.cache.end_check(check, database_now, hashes)
        return True

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="token-vault cache", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self.check() or not self._may_end():
            self._closed.wait(CHECK_SECONDS)

    def _may_end(self) -> bool:
        """Whether the thread ends: there are no entries left.

        Decided under the lock, so that no entry is added for a thread that is about to end.
        """
        with self._lock:
            if len(self.cache) and not self._closed.is_set():
                return False
            self._thread = None
            return True

    def _read(self, check: CacheCheck) -> tuple[float, dict[int, list[object]]]:
        """Return the database's time and row hashes by entry.

        The time is in Unix seconds; an entry is named by its position.
        """
        own: list[tuple[int, CachedToken]] = []
        targets: list[tuple[int, CachedToken]] = []
        for position, (_, entry) in enumerate(check.entries):
            (own if entry.served.target.is_default else targets).append((position, entry))
        hashes: defaultdict[int, list[object]] = defaultdict(list)
        times: list[float] = []
        for statement, entries in ((HASH_SERVED, own), (HASH_SERVED_TARGETS, targets)):
            if entries:
                for number, found, now in self._pool.rows(statement, _columns(statement, entries)):
                    times.append(float(str(now)))
                    if found is not None:
                        hashes[int(str(number))].append(found)
        return max(times), hashes


def _columns(statement: str, entries: Sequence[tuple[int, CachedToken]]) -> list[list[object]]:
    """Return the statement's parameters, an array for each column."""
    served = [entry.served for _, entry in entries]
    columns: list[list[object]] = [
        [position for position, _ in entries],
        [each.user_id for each in served],
        [each.connection for each in served],
    ]
    if statement is HASH_SERVED_TARGETS:
        columns += [[each.resource for each in served], [each.scope for each in served]]
    return columns
