"""Tokens that were read lately, decrypted in memory.

An entry is as good as its last check. Each check compares the rows of all entries with the vault's, and what it found
holds for a second after it began: no wakeup has to arrive, and nothing has to notice that a connection is lost. Where
no check succeeds, nothing is served from here.
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

# What a check found holds for so long after it began: changes are seen within it.
LEASE_SECONDS = 1.0
# Between two checks, so that one may take as long again before entries are without a lease.
CHECK_SECONDS = 0.5
# An entry that nobody reads is dropped: by then its checks have cost about as much as the read that follows.
IDLE_SECONDS = 30.0
# A real read notes that the grant is used, and so keeps it from becoming dormant.
MAX_AGE_SECONDS = 900.0
# Of one reader: some megabytes, and some milliseconds of Postgres for each check.
MAX_CACHED_TOKENS = 2000

Key = tuple[object, ...]


def cache_key(user_id: str, connection: str, account: str | None, target: TokenTarget) -> Key:
    """Return what names an entry.

    An admin token's key is no user's, whatever user id is asked for.
    """
    names: Key = (user_id, connection, account) if user_id else (connection,)
    return names if target.is_default else (*names, target)


class CachedToken:
    """A token, with the hashes of its rows.

    It shows nothing of the token.
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

        ``next`` is atomic, and this one's own step is left out of the next difference.
        """
        reads = next(self.reads)
        taken, self.taken = reads - self.taken, reads + 1
        return taken


def _ends(served: Served) -> tuple[float, float]:
    """Return the token's end, and its default margin's.

    Both are Unix seconds of the database's clock. Where nobody knows the end, it is served without a wish for life only.
    """
    if served.expires_at is None:
        return float("-inf"), float("inf")
    end = served.expires_at.timestamp()
    return end, end - default_min_ttl(served.expires_at, served.obtained_at).total_seconds()


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """Entries that are compared with the vault.

    Attributes:
        began_at: by the monotonic clock, before the vault was asked.
    """

    began_at: float
    entries: Sequence[tuple[Key, CachedToken]]


class TokenCache:
    """Cached tokens of one reader, for any number of threads.

    Args:
        start_checks: called when there is an entry, from which on ``begin_check`` is called each ``CHECK_SECONDS``.
        counts: whether ``take_reads`` is called, so that dropped entries are kept for it.
        clock: monotonic, in seconds, those of a suspended machine too.
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
        self._generation = object()  # another one from each check, and each forgetting, on
        self._lease_end = float("-inf")
        self._offset = 0.0

    def __repr__(self) -> str:
        return f"TokenCache({len(self)} tokens)"

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, min_ttl: float | None, needs: Sequence[str] = ()) -> CachedToken | None:
        """Return an entry whose token an uncached read would give.

        The time is taken first: a thread that is halted afterwards finds what later checks left.
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

        An entry that is dropped meanwhile may have been counted for the last time: the read is then another's.
        """
        entry = self.find(key, min_ttl, needs)
        if entry is None:
            return None
        next(entry.reads)
        return None if entry.is_dropped else entry.token

    def begin_read(self) -> object:
        """Return a mark for ``put``, before the vault is asked."""
        return self._generation

    def put(self, mark: object, key: Key, token: Token, served: Served, hashes: Collection[object]) -> None:
        """Keep a token, unless a check began meanwhile.

        It did not compare the rows, and would vouch for what it has not seen.
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

    def forget(self, grant_id: int) -> None:
        """Drop a grant's tokens, those being read too."""
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
            database_now: Unix seconds, at any moment of the check; the estimate made of it is never behind.
            hashes: of the rows now, by the position of the entry.
        """
        with self._lock:
            for position, (key, entry) in enumerate(check.entries):
                if entry.hashes != frozenset(hashes.get(position, ())) and self._entries.get(key) is entry:
                    self._drop(key)
            self._offset = database_now - check.began_at
            self._lease_end = check.began_at + LEASE_SECONDS

    def clear(self) -> None:
        """Drop everything, as the vault cannot be asked."""
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
        """Drop the tenth unread for the longest time."""
        oldest = sorted(self._entries, key=lambda key: self._entries[key].used_at)
        for key in oldest[: max(1, self._max_tokens // 10)]:
            self._drop(key)


def _has_scopes(token: Token, needs: Sequence[str]) -> bool:
    if not isinstance(needs, (tuple, list)):  # what can be read once is left to who checks it
        return False
    return token.scopes is None or all(scope in token.scopes for scope in needs)
