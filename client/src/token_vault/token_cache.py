"""Recently read tokens, decrypted in memory.

Each check compares the rows of all entries with the vault's, and its result is valid for one second from its beginning.
So the cache depends on no wakeup, and need not notice a lost connection. While checks fail, nothing is served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from token_vault.elapsed_time import elapsed
from token_vault.freshness import default_min_ttl
from token_vault.read_model import Served
from token_vault.token import Token
from token_vault.token_target import TokenTarget

# A check's result is valid for this long after the check began, so changes take effect within it.
LEASE_SECONDS = 1.0
# Between two checks. It leaves half a second for the next check before the lease ends.
CHECK_SECONDS = 0.5
# An entry that nobody reads is dropped after this time, when its checks have cost about as much as a new read.
IDLE_SECONDS = 30.0
# After this time the row is read again, and the read noted, so that the grant does not become dormant.
MAX_AGE_SECONDS = 900.0
# Bounds the memory of one reader to megabytes, and a check's time in Postgres to milliseconds.
MAX_CACHED_TOKENS = 2000

Key = tuple[object, ...]


def cache_key(user_id: str, connection: str, account: str | None, target: TokenTarget) -> Key:
    """Return an entry's key.

    An admin token's key has another shape than a user's, so an empty user id cannot find it.
    """
    names: Key = (user_id, connection, account) if user_id else (connection,)
    return names if target.is_default else (*names, target)


class CachedToken:
    """A token with the hashes of its rows.

    Attributes:
        end: when it ends, in Unix seconds of the database's clock.
        default_end: until when it has the default life left, likewise.
        reads, taken: how often it was read, and how many of these reads were already reported.
    """

    __slots__ = (
        "default_end",
        "end",
        "hashes",
        "is_dropped",
        "read_at",
        "reads",
        "served",
        "taken",
        "token",
        "used_at",
    )

    def __init__(self, token: Token, served: Served, hashes: Collection[object], now: float) -> None:
        self.token = token
        self.served = served._replace(access_ciphertext=None, extra_ciphertext=None)
        self.hashes = frozenset(hashes)
        self.end, self.default_end = _ends(served)
        self.read_at = self.used_at = now
        self.reads = count()
        self.taken = 0
        self.is_dropped = False

    def __repr__(self) -> str:
        return f"CachedToken({self.token!r})"

    def take_reads(self) -> int:
        """Return the number of reads since the last call.

        ``next`` is atomic. This call's own step of the counter is not counted as a read.
        """
        reads = next(self.reads)
        taken, self.taken = reads - self.taken, reads + 1
        return taken


def _ends(served: Served) -> tuple[float, float]:
    """Return the token's end, and when serving it ends.

    Both are Unix seconds of the database's clock. A token of unknown end is served only if no ``min_ttl`` is asked for.
    """
    if served.expires_at is None:
        return float("-inf"), float("inf")
    end = served.expires_at.timestamp()
    return end, end - default_min_ttl(served.expires_at, served.obtained_at).total_seconds()


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """One comparison of all entries with the vault.

    Attributes:
        began_at: by the monotonic clock, before the query was sent.
    """

    began_at: float
    entries: Sequence[tuple[Key, CachedToken]]


class TokenCache:
    """Cached tokens of one reader, for any number of threads.

    Args:
        start_checks: called when an entry is added; from then on ``begin_check`` is called every ``CHECK_SECONDS``.
        counts: whether ``take_reads`` will be called, so that dropped entries are kept for it.
        clock: monotonic, in seconds, counting while the machine is suspended.
    """

    def __init__(
        self,
        start_checks: Callable[[], None] = lambda: None,
        *,
        counts: bool = False,
        clock: Callable[[], float] = elapsed,
        max_tokens: int = MAX_CACHED_TOKENS,
    ) -> None:
        self._start_checks = start_checks
        self._counts = counts
        self._clock = clock
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._entries: dict[Key, CachedToken] = {}
        self._uncounted: list[CachedToken] = []
        self._generation = object()  # replaced by each check and each ``forget``
        self._lease_end = float("-inf")
        self._offset = 0.0

    def __repr__(self) -> str:
        return f"TokenCache(tokens={len(self)})"

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, min_ttl: float | None, needs: Sequence[str] = ()) -> CachedToken | None:
        """Return an entry whose token an uncached read would give.

        The time is read before the entry, so that a thread that is halted in between sees what later checks have left.
        """
        now = self._clock()
        if now >= self._lease_end:
            return None
        entry = self._entries.get(key)
        if entry is None:
            return None
        end = entry.default_end if min_ttl is None else entry.end - max(min_ttl, 0)
        if not now + self._offset < end:  # so that NaN is never fresh
            return None
        if needs and not _has_scopes(entry.token, needs):
            return None
        entry.used_at = now
        return entry

    def take(self, key: Key, min_ttl: float | None, needs: Sequence[str]) -> Token | None:
        """Return a cached token, and count the read.

        If the entry was dropped meanwhile, its reads may have been reported already: then None, and the row is read.
        """
        entry = self.find(key, min_ttl, needs)
        if entry is None:
            return None
        next(entry.reads)
        return None if entry.is_dropped else entry.token

    def begin_read(self) -> object:
        """Return a mark for ``put``; call it before the query."""
        return self._generation

    def put(self, mark: object, key: Key, token: Token, served: Served, hashes: Collection[object]) -> None:
        """Keep a token, unless a check began after its mark.

        That check did not compare the token's rows, but its lease would cover the entry.
        """
        now = self._clock()
        with self._lock:
            if mark is not self._generation:
                return
            if key not in self._entries and len(self._entries) >= self._max_tokens:
                self._make_space()
            self._drop(key)
            self._entries[key] = CachedToken(token, served, hashes, now)
        self._start_checks()

    def compare(self, key: Key, hashes: Collection[object]) -> None:
        """Drop an entry whose rows a read has found changed.

        A check that began before the change may still extend the lease: what was read once is not taken back.

        Args:
            hashes: of the rows that the read has found.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.hashes != frozenset(hashes):
                self._drop(key)

    def forget(self, grant_id: int) -> None:
        """Drop a grant's tokens, also those of reads under way."""
        with self._lock:
            self._generation = object()
            for key in [key for key, entry in self._entries.items() if entry.served.id == grant_id]:
                self._drop(key)

    def begin_check(self) -> CacheCheck | None:
        """Return what to compare; None where nothing is cached."""
        with self._lock:
            now = self._clock()
            self._generation = object()
            for key, entry in list(self._entries.items()):
                if now - entry.used_at >= IDLE_SECONDS or now - entry.read_at >= MAX_AGE_SECONDS:
                    self._drop(key)
            return CacheCheck(now, list(self._entries.items())) if self._entries else None

    def end_check(
        self, check: CacheCheck, database_now: float, hashes: Mapping[int, Collection[object]]
    ) -> None:
        """Drop what has changed, and extend the lease.

        Args:
            database_now: in Unix seconds, at any moment of the check. It is taken for the time of its beginning, so
                the estimated time is never behind the database's.
            hashes: of the current rows, by the position of the entry.
        """
        with self._lock:
            for position, (key, entry) in enumerate(check.entries):
                if entry.hashes != frozenset(hashes.get(position, ())) and self._entries.get(key) is entry:
                    self._drop(key)
            self._offset = database_now - check.began_at
            self._lease_end = check.began_at + LEASE_SECONDS

    def clear(self) -> None:
        """Drop everything, because a check failed."""
        with self._lock:
            self._generation = object()
            self._lease_end = float("-inf")
            for key in list(self._entries):
                self._drop(key)

    def take_reads(self) -> Iterator[tuple[CachedToken, int]]:
        """Yield entries with their counted reads since the last call."""
        with self._lock:
            entries, self._uncounted = [*self._entries.values(), *self._uncounted], []
        for entry in entries:
            if reads := entry.take_reads():
                yield entry, reads

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.is_dropped = True
            if self._counts:
                self._uncounted.append(entry)

    def _make_space(self) -> None:
        """Drop a tenth of the entries, the least recently read."""
        oldest = sorted(self._entries, key=lambda key: self._entries[key].used_at)
        for key in oldest[: max(1, self._max_tokens // 10)]:
            self._drop(key)


def _has_scopes(token: Token, needs: Sequence[str]) -> bool:
    if not isinstance(needs, (tuple, list)):  # an iterator can be read once only: the uncached read checks it
        return False
    return token.scopes is None or all(scope in token.scopes for scope in needs)
