"""A cached read gives what an uncached one would have given within the last second, whatever happens between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.keys import ACCESS_KEY
from token_vault.elapsed_time import elapsed
from token_vault.encryption_context import EncryptionContext
from token_vault.errors import VaultError
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.read_flow import ReadFlow
from token_vault.read_model import SELECT_STATUS, Served
from token_vault.read_steps import Flow, Query, Step
from token_vault.secret import Secret
from token_vault.token import Token
from token_vault.token_cache import (
    CHECK_SECONDS,
    LEASE_SECONDS,
    CacheCheck,
    CachedToken,
    TokenCache,
    cache_key,
)
from token_vault.token_query import user_query
from token_vault.token_target import DEFAULT_TARGET, TokenTarget

RING = KeyRing("access", [ACCESS_KEY])
CONNECTION = "custom"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_OFFSET = 12_345.0  # of the monotonic clock


@dataclass(frozen=True)
class Row:
    """A grant as ``served_tokens`` shows it; times are in seconds since the test began."""

    id: int
    user_id: str
    account: str
    version: int = 1
    state: str = "active"
    obtained_at: float = 0.0
    expires_at: float | None = None
    scopes: tuple[str, ...] = ("read",)
    is_hidden: bool = False

    @property
    def value(self) -> str:
        """Name the token."""
        return f"{self.id}.{self.version}"

    def served(self, now: float) -> Served:
        """Return the row that a reader gets at a time."""
        key = GrantKey("default", CONNECTION, self.user_id, self.account)
        end = None if self.expires_at is None else EPOCH + timedelta(seconds=self.expires_at)
        ciphertext = None
        if self.state != "erased":
            context = EncryptionContext.of_access_token(key, self.version, end)
            ciphertext = RING.encrypt(context, Secret(self.value))
        return Served(
            self.id, key.tenant, CONNECTION, self.user_id, self.account, self.state, None, None, ciphertext,
            self.version, end, list(self.scopes), EPOCH + timedelta(seconds=self.obtained_at), "renewal", None,
            None, EPOCH + timedelta(seconds=now), "", "", None, None, None, hash(self),
        )  # fmt: skip


def run(flow: Flow, rows: list[Served], step: Step | None = None) -> str:
    """Carry a read out on rows, from its first step or a later one; name what came of it."""
    try:
        step = step or next(flow)
        while True:
            if isinstance(step, Query) and step.statement == SELECT_STATUS:
                return "no fresh token"
            step = flow.send([tuple(row) for row in rows] if isinstance(step, Query) else None)
    except StopIteration as end:
        return str(end.value.value)
    except VaultError as error:
        return type(error).__name__


@dataclass
class Reading:
    """A read whose rows were asked for."""

    flow: Flow
    rows: list[Served]
    step: Step


@dataclass
class History:
    """What the table was, and since when."""

    now: float = 0.0
    rows: dict[int, Row] = field(default_factory=dict)
    states: list[tuple[float, dict[int, Row]]] = field(default_factory=list)

    def change(self, row: Row) -> None:
        """Write a row."""
        self.rows = {**self.rows, row.id: row}
        self.states.append((self.now, self.rows))

    def within(self, seconds: float) -> list[dict[int, Row]]:
        """Return what the table was at any time of the last seconds."""
        begun = [rows for since, rows in self.states if since <= self.now - seconds]
        later = [rows for since, rows in self.states if since > self.now - seconds]
        return [*begun[-1:], *later] or [{}]

    def served(self, rows: dict[int, Row], user_id: str) -> list[Served]:
        """Return what the view gives now of one user."""
        return [row.served(self.now) for row in rows.values() if row.user_id == user_id and not row.is_hidden]


USERS = strategies.sampled_from(["oauth2|a", "oauth2|x"])
ACCOUNTS = strategies.sampled_from(["a", "b"])
LIVES = strategies.one_of(strategies.none(), strategies.floats(1, 200), strategies.just(100.0))
TTLS = strategies.one_of(
    strategies.none(), strategies.sampled_from([-5.0, 0.0, 1.0, 60.0, math.nan, math.inf])
)


class CachedReads(RuleBasedStateMachine):
    """A cached and an uncached reader of one table, in an order of events that is found by chance."""

    grants = Bundle("grants")
    readings = Bundle("readings")

    @initialize(target=grants)
    def begin(self) -> Any:
        """Make a reader with a cache, and one without."""
        self.history = History()
        self.cache = TokenCache(clock=lambda: self.history.now + CLOCK_OFFSET)
        self.cached, self.uncached = ReadFlow(RING, None), ReadFlow(RING, None)
        self.cached.cache = self.cache
        self.checking: tuple[CacheCheck, dict[int, list[object]], float] | None = None
        for number, user_id in enumerate(("oauth2|a", "oauth2|x"), start=1):
            self.history.change(Row(number, user_id, user_id[-1], expires_at=100.0))
            self.read_and_check(user_id)
        return multiple(1, 2)

    @rule(target=grants, user_id=USERS, account=ACCOUNTS, life=LIVES)
    def add(self, user_id: str, account: str, life: float | None) -> int:
        """A grant is stored."""
        number = len(self.history.rows) + 1
        now = self.history.now
        end = None if life is None else now + life
        self.history.change(Row(number, user_id, account, obtained_at=now, expires_at=end))
        return number

    @rule(grant=grants, life=LIVES)
    def renew(self, grant: int, life: float | None) -> None:
        """A grant's token is replaced."""
        row, now = self.history.rows[grant], self.history.now
        end = None if life is None else now + life
        self.history.change(
            replace(row, version=row.version + 1, state="active", obtained_at=now, expires_at=end)
        )

    @rule(grant=grants, state=strategies.sampled_from(["reauthorization_required", "unrenewable", "erased"]))
    def end_grant(self, grant: int, state: str) -> None:
        """A grant dies, or is erased."""
        self.history.change(replace(self.history.rows[grant], state=state))

    @rule(grant=grants, scopes=strategies.sampled_from([("read",), ("read", "write")]))
    def change_scopes(self, grant: int, scopes: tuple[str, ...]) -> None:
        """Another sync says what the token may do."""
        self.history.change(replace(self.history.rows[grant], scopes=scopes))

    @rule(grant=grants, is_hidden=strategies.booleans())
    def change_rights(self, grant: int, is_hidden: bool) -> None:
        """The operator changes what the consumer may read."""
        self.history.change(replace(self.history.rows[grant], is_hidden=is_hidden))

    @rule(seconds=strategies.sampled_from([0.01, 0.3, 0.6, 0.999, 1.0, 40.0, 69.5]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.history.now += seconds

    @precondition(lambda self: self.checking is None)
    @rule()
    def begin_check(self) -> None:
        """A check asks the vault."""
        check = self.cache.begin_check()
        if check is not None:
            found: dict[int, list[object]] = {
                position: [
                    row.row_hash for row in self.history.served(self.history.rows, entry.served.user_id)
                ]
                for position, (_, entry) in enumerate(check.entries)
            }
            now = (EPOCH + timedelta(seconds=self.history.now)).timestamp()
            self.checking = (check, found, now)

    @precondition(lambda self: self.checking is not None)
    @rule(is_answered=strategies.booleans())
    def end_check(self, is_answered: bool) -> None:
        """The vault answers the check, or the connection is lost."""
        assert self.checking is not None
        check, found, now = self.checking
        self.checking = None
        if is_answered:
            self.cache.end_check(check, now, found)
        else:
            self.cache.clear()

    @precondition(lambda self: self.checking is None)
    @rule(user_id=USERS)
    def read_and_check(self, user_id: str) -> None:
        """A token comes into the cache, and a check is answered at once."""
        rows = self.history.served(self.history.rows, user_id)
        run(self.cached.token(user_query(user_id, CONNECTION, None, None, 0)), rows)
        self.begin_check()
        if self.checking is not None:
            self.end_check(True)

    @rule(target=readings, user_id=USERS, min_ttl=TTLS)
    def begin_read(self, user_id: str, min_ttl: float | None) -> Reading:
        """A read asks the vault, whose answer takes its time."""
        flow = self.cached.token(user_query(user_id, CONNECTION, None, min_ttl, 0))
        return Reading(flow, self.history.served(self.history.rows, user_id), next(flow))

    @rule(reading=consumes(readings))
    def end_read(self, reading: Reading) -> None:
        """The vault answers a read."""
        run(reading.flow, reading.rows, reading.step)

    @rule(
        user_id=USERS,
        account=strategies.one_of(strategies.none(), ACCOUNTS),
        min_ttl=TTLS,
        needs=strategies.sampled_from([(), ("write",)]),
    )
    def read(self, user_id: str, account: str | None, min_ttl: float | None, needs: tuple[str, ...]) -> None:
        """Both read; the uncached one read at some time of the last second."""
        query = user_query(user_id, CONNECTION, account, min_ttl, 0, needs)
        is_cached = self.cache.find(cache_key(user_id, CONNECTION, account, DEFAULT_TARGET), min_ttl, needs)
        found = run(self.cached.token(query), self.history.served(self.history.rows, user_id))
        states = self.history.within(LEASE_SECONDS) if is_cached else [self.history.rows]
        possible = {run(self.uncached.token(query), self.history.served(rows, user_id)) for rows in states}
        assert found in possible

    @rule(grant=grants)
    def reject(self, grant: int) -> None:
        """An API refuses a token, of which both readers hear."""
        row = self.history.rows[grant]
        token = Token(row.value, None, None, grant_id=row.id, access_version=row.version)
        for flow in (self.cached, self.uncached):
            flow.record_rejected(token)


def test_cached_reads() -> None:
    """Whatever happens in whatever order, a cached reader gives what an uncached one gave within the last second."""
    run_state_machine_as_test(
        CachedReads, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _filled(clock: Callable[[], float], users: int, **options: Any) -> TokenCache:
    cache = TokenCache(clock=clock, **options)
    for number in range(users):
        _put(cache, f"u{number}")
    _check(cache)
    return cache


def _put(cache: TokenCache, user_id: str, value: str = "secret-value") -> None:
    row = Row(1, user_id, "a", expires_at=3600.0)
    token = Token(value, EPOCH + timedelta(hours=1), ("read",))
    cache.put(cache.begin_read(), (user_id,), token, row.served(0), [1])


def _check(cache: TokenCache) -> None:
    check = cache.begin_check()
    if check is not None:
        cache.end_check(check, EPOCH.timestamp(), {number: [1] for number in range(len(check.entries))})


def test_the_longest_unread_are_dropped_beyond_the_bound() -> None:
    """The cache never holds more than its bound, and keeps what was read last."""
    clock = Clock()
    cache = _filled(clock, 10, max_tokens=10)
    clock.now = 0.1
    assert cache.find(("u0",), None)
    _put(cache, "another")
    assert len(cache) == 10
    assert cache.find(("u0",), None)
    assert not cache.find(("u1",), None)


def test_a_tenth_makes_space() -> None:
    """A full cache drops so many at once, as each time it has to look at all of them."""
    cache = _filled(Clock(), 20, max_tokens=20)
    _put(cache, "another")
    assert len(cache) == 19


def test_a_cache_that_was_cleared_serves_nothing_until_a_check() -> None:
    """Neither what is read again, nor what was being read, is served before the vault could be asked once more."""
    cache = _filled(Clock(), 1)
    mark = cache.begin_read()
    cache.clear()
    cache.put(mark, ("u0",), Token("late", None, None), Row(1, "u0", "a").served(0), [1])
    assert len(cache) == 0
    _put(cache, "u0")
    assert cache.find(("u0",), None) is None
    _check(cache)
    assert cache.find(("u0",), None)


def test_checks_are_started_by_what_is_cached() -> None:
    """Who keeps no token makes no checks."""
    started: list[bool] = []
    cache = TokenCache(lambda: started.append(True), clock=Clock())
    assert started == []
    _put(cache, "u")
    assert started == [True]


def test_entries_end_unread_and_old() -> None:
    """An entry ends when nobody reads it, and at an age even where all do."""
    clock = Clock()
    cache = _filled(clock, 1)
    clock.now = 30
    _check(cache)
    assert len(cache) == 0
    cache = _filled(clock, 1)
    began = clock.now
    while clock.now - began < 900:
        assert cache.find(("u0",), 0)
        clock.now += 15
        _check(cache)
    assert len(cache) == 0


def test_nothing_is_served_before_the_first_check() -> None:
    """What was only read has no lease yet, as nobody would see it change."""
    cache = TokenCache(clock=Clock())
    _put(cache, "u")
    assert cache.find(("u",), None) is None


def test_what_was_read_before_a_check_is_not_kept() -> None:
    """A check vouches for what it compared only: rows that were read before it, and come after it, are not cached."""
    cache = _filled(Clock(), 1)
    mark = cache.begin_read()
    check = cache.begin_check()
    assert check is not None
    row = Row(2, "late", "a", expires_at=3600.0)
    cache.put(mark, ("late",), Token("old", None, None), row.served(0), [1])
    cache.end_check(check, EPOCH.timestamp(), {0: [1]})
    assert cache.find(("late",), None) is None
    assert cache.find(("u0",), None)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="of Linux alone")
def test_a_suspended_machine_outlives_no_lease() -> None:
    """A lease is counted by the clock that goes on while the machine sleeps."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= elapsed() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert TokenCache()._clock is elapsed


def test_the_lease_begins_with_the_check() -> None:
    """A check that is answered late holds no longer: what it found was so when it was asked at the latest."""
    clock = Clock()
    cache = _filled(clock, 1)
    check = cache.begin_check()
    assert check is not None
    clock.now = 0.9
    cache.end_check(check, EPOCH.timestamp(), {0: [1]})
    assert cache.find(("u0",), None)
    clock.now = 1.0
    assert cache.find(("u0",), None) is None
    assert 2 * CHECK_SECONDS <= LEASE_SECONDS  # a check may take as long again


@pytest.mark.parametrize("hashes", [{0: [2]}, {0: [1, 2]}, {}])
def test_what_has_changed_is_dropped(hashes: dict[int, list[object]]) -> None:
    """A row that changed, one more of the same user, and one that is gone end the entry."""
    cache = _filled(Clock(), 1)
    check = cache.begin_check()
    assert check is not None
    cache.end_check(check, EPOCH.timestamp(), hashes)
    assert cache.find(("u0",), None) is None


def test_no_token_has_less_life_than_asked_for() -> None:
    """An entry ends with the margin that is asked for, or the usual one."""
    clock = Clock()
    cache = _filled(clock, 1)
    for now, min_ttl, is_served in [
        (3569.0, None, True), (3570.0, None, False), (3570.0, 29, True), (3570.0, 30, False),
        (3599.0, -5, True), (3600.0, -5, False), (0.0, math.nan, False), (0.0, math.inf, False),
    ]:  # fmt: skip
        check = cache.begin_check()
        assert check is not None
        cache.end_check(check, EPOCH.timestamp() + now, {0: [1]})
        assert bool(cache.find(("u0",), min_ttl)) is is_served, (now, min_ttl)


def test_what_a_read_has_found_gone_does_not_come_back() -> None:
    """A late answer to a check from before the change extends the lease, of what no read has found changed."""
    clock, flow = Clock(), ReadFlow(RING, None)
    flow.cache = cache = TokenCache(clock=clock)
    query = user_query("gone", CONNECTION, None, None, 0)
    kept, gone = ("kept",), cache_key("gone", CONNECTION, None, DEFAULT_TARGET)
    for key in (kept, gone):
        cache.put(cache.begin_read(), key, Token("secret", None, None), Row(1, "x", "a").served(0), [1])
    clock.now = 0.9
    check = cache.begin_check()
    assert check is not None
    clock.now = 1.2
    assert run(flow.token(query), []) == "TokenNotFound"
    cache.compare(kept, [1])
    cache.end_check(check, EPOCH.timestamp(), {0: [1], 1: [1]})
    assert cache.find(kept, None)
    assert run(flow.token(query), []) == "TokenNotFound"


def test_a_rejected_token_leaves_the_cache() -> None:
    """What an API refused is not served any more, nor kept by a read that is under way."""
    flow = ReadFlow(RING, None)
    flow.cache = cache = _filled(Clock(), 1)
    mark = cache.begin_read()
    flow.record_rejected(Token("secret-value", None, None, grant_id=1, access_version=1))
    assert cache.find(("u0",), None) is None
    cache.put(mark, ("u0",), Token("secret-value", None, None), Row(1, "u0", "a").served(0), [1])
    assert len(cache) == 0


def test_a_database_whose_clock_is_ahead_decides() -> None:
    """A token's end is told by the database's clock, not the reader's."""
    clock = Clock()
    clock.now = 77_000.0  # of a machine that has been up for a day
    cache = TokenCache(clock=clock)
    _put(cache, "u")
    check = cache.begin_check()
    assert check is not None
    cache.end_check(check, EPOCH.timestamp() + 3590, {0: [1]})
    assert cache.find(("u",), 9)
    assert cache.find(("u",), 10) is None


def test_an_admin_token_has_a_key_of_its_own() -> None:
    """No user id that an app may pass names an admin token."""
    target = TokenTarget("resource", "")
    admin = {cache_key("", CONNECTION, None, each) for each in (DEFAULT_TARGET, target)}
    user = {
        cache_key(user, CONNECTION, account, each)
        for user in ("u", CONNECTION)
        for account in (None, "a")
        for each in (DEFAULT_TARGET, target)
    }
    assert not admin & {*user, ("", CONNECTION, None), (None, CONNECTION, None)}
    others = {cache_key("u", CONNECTION, None, TokenTarget(f"resource {number}")) for number in range(2)}
    assert len(others) == 2


def test_each_counted_read_is_given_once() -> None:
    """Counted reads are given once, those of dropped entries too."""
    clock = Clock()
    cache = _filled(clock, 2, counts=True)
    for _ in range(3):
        assert cache.take(("u0",), None, ())
    assert [reads for _, reads in cache.take_reads()] == [3]
    assert cache.take(("u0",), None, ())
    assert cache.take(("u1",), None, ())
    cache.clear()
    assert [reads for _, reads in cache.take_reads()] == [1, 1]
    assert list(cache.take_reads()) == []
    cache = _filled(clock, 1, counts=True)
    assert cache.take(("u0",), None, ())
    _put(cache, "u0")
    _check(cache)
    assert cache.take(("u0",), None, ())
    assert [reads for _, reads in cache.take_reads()] == [1, 1]


def test_reads_that_nobody_counts_are_not_kept() -> None:
    """A cache whose reads are not asked for drops an entry with its count."""
    cache = _filled(Clock(), 1)
    assert cache.take(("u0",), None, ())
    cache.clear()
    assert list(cache.take_reads()) == []


def test_a_read_of_a_dropped_entry_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is dropped while it is read may be counted no more, so it is not served."""
    cache = _filled(Clock(), 1, counts=True)
    entry = cache.find(("u0",), None)
    assert entry is not None
    cache.clear()
    monkeypatch.setattr(cache, "find", lambda *_: entry)
    assert cache.take(("u0",), None, ()) is None


def test_needs_that_can_be_read_once_are_left_alone() -> None:
    """What a read without the cache has to look at is not used up."""
    cache = _filled(Clock(), 1)
    needs: Any = iter(["read"])
    assert cache.find(("u0",), None, needs) is None
    assert list(needs) == ["read"]


def test_a_token_with_the_scopes_that_are_needed_is_served() -> None:
    """A read that needs scopes comes out of memory like any other, and out of the vault where they are missing."""
    cache = _filled(Clock(), 1)
    assert cache.find(("u0",), None, ("read",))
    assert cache.find(("u0",), None, ("read", "write")) is None


def test_no_value_is_shown() -> None:
    """A cache and its entries print without tokens, and keep no ciphertext."""
    cache = _filled(Clock(), 1)
    entry = cache.find(("u0",), None)
    assert isinstance(entry, CachedToken)
    assert "secret" not in repr((cache, entry, entry.token, entry.served))
    assert entry.served.access_ciphertext is None


def test_a_token_does_not_change() -> None:
    """Who gets a token cannot change another's."""
    token = Token("x", None, None, extra={"instance_url": "https://a.example"})
    for name in ("value", "expires_at", "extra"):
        with pytest.raises(AttributeError):
            setattr(token, name, "y")
        with pytest.raises(AttributeError):
            delattr(token, name)
    with pytest.raises(TypeError):
        token.extra["instance_url"] = "y"  # type: ignore[index]  # what an app may try
