"""The tenant's users: by id at once, and in the search index, which may lag behind."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tests.emulators.auth0.query import Every, Node, Range, Term, User
from tests.emulators.clock import milliseconds

ORDERS = ("updated_at", "created_at")


class Users:
    """Users as Auth0 shows them. A stored user is never changed in place: `put` a new one."""

    def __init__(self) -> None:
        self.by_id: dict[str, User] = {}
        self.lagging: set[str] = set()  # the index keeps showing these users' previous copy
        self._previous: dict[str, User] = {}
        self._indexed: dict[str, User] = {}
        self._orders = {name: _Order() for name in ORDERS}

    def put(self, user: User) -> None:
        """Add or replace a user; the index follows unless it lags."""
        name = user["user_id"]
        if name in self.by_id:
            self._previous[name] = self.by_id[name]
        self.by_id[name] = user
        if name not in self.lagging:
            self._index(name, user)

    def remove(self, name: str) -> User:
        """Delete a user. Raises KeyError."""
        user = self.by_id.pop(name)
        self._previous.pop(name, None)
        self.lagging.discard(name)
        self._index(name, None)
        return user

    def lag(self, name: str, behind: bool) -> None:
        """Let the index show the copy from before the user's last change, or catch up."""
        (self.lagging.add if behind else self.lagging.discard)(name)
        current = self.by_id[name]
        self._index(name, self._previous.get(name, current) if behind else current)

    def search(
        self, query: Every, sort: tuple[str, bool], start: int, count: int, totals: bool
    ) -> tuple[list[User], int]:
        """Find users from `start`, at most `count`, and how many there are (only if `totals`).

        `sort` is a field and whether it descends.
        """
        field, descending = sort
        candidates, rest = self._candidates(query, field)
        ordered = candidates.reversed() if descending else candidates
        if not rest.parts:
            return [self._indexed[name] for name in ordered.part(start, count)], len(ordered)
        hits = (user for name in ordered if rest.matches(user := self._indexed[name]))
        if not totals:
            return list(islice(hits, start, start + count)), 0
        found = list(hits)
        return found[start : start + count], len(found)

    def _candidates(self, query: Every, field: str) -> tuple["_Stretch", Every]:
        """Narrow by id or by time without looking at every user; what is left to check comes along."""
        for part in query.parts:
            if isinstance(part, Term) and part.field == "user_id" and not part.prefix:
                known = [(0, part.value)] if part.value in self._indexed else []
                return _Stretch(known, range(len(known))), query
        if field not in self._orders:
            names = sorted(self._indexed, key=lambda name: str(self._indexed[name].get(field, "")))
            return _Stretch([(0, name) for name in names], range(len(names))), query
        low, high, rest = _bounds(query.parts, field)
        return self._orders[field].between(low, high), rest

    def _index(self, name: str, user: User | None) -> None:
        before = self._indexed.pop(name, None)
        for field, order in self._orders.items():
            if before is not None:
                order.discard(_time(before, field), name)
            if user is not None:
                order.add(_time(user, field), name)
        if user is not None:
            self._indexed[name] = user


class _Stretch:
    """Part of an order, in either direction, without copying it."""

    def __init__(self, keys: list[tuple[int, str]], places: range) -> None:
        self._keys = keys
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return (self._keys[place][1] for place in self._places)

    def part(self, start: int, count: int) -> list[str]:
        return [self._keys[place][1] for place in self._places[start : start + count]]

    def reversed(self) -> "_Stretch":
        return _Stretch(self._keys, self._places[::-1])


class _Order:
    """User ids in the order of one timestamp; sorted only when somebody looks after a bulk load."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, str]] = []
        self._dirty = False

    def add(self, at: int, name: str) -> None:
        self._dirty |= bool(self._keys) and (at, name) < self._keys[-1]
        self._keys.append((at, name))

    def discard(self, at: int, name: str) -> None:
        self._settle()
        place = bisect_left(self._keys, (at, name))
        del self._keys[place]

    def between(self, low: int | None, high: int | None) -> "_Stretch":
        self._settle()
        first = 0 if low is None else bisect_left(self._keys, (low, ""))
        last = len(self._keys) if high is None else bisect_left(self._keys, (high, ""))
        return _Stretch(self._keys, range(first, last))

    def _settle(self) -> None:
        if self._dirty:
            self._keys.sort()
            self._dirty = False


def _bounds(parts: Iterable[Node], field: str) -> tuple[int | None, int | None, Every]:
    lows, highs, rest = [], [], []
    for part in parts:
        if isinstance(part, Range) and part.field == field:
            lows.append(part.low)
            highs.append(part.high)
        else:
            rest.append(part)
    low = max((bound for bound in lows if bound is not None), default=None)
    high = min((bound for bound in highs if bound is not None), default=None)
    return low, high, Every(tuple(rest))


def _time(user: User, field: str) -> int:
    value: Any = user.get(field)
    try:
        return milliseconds(value)
    except (TypeError, ValueError):
        return 0
