"""The tenant's users, by id and in the search index.

By id they are found at once; the index may lag behind.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from emulators.auth0.orders import Order, Stretch
from emulators.auth0.query import Every, Node, Range, Term, User
from emulators.auth0.settings import Settings
from emulators.clock import Clock, milliseconds

ORDERS = ("updated_at", "created_at", "last_login", "user_id")
FEW = 2000  # users of one connection that are sorted for each query rather than picked out of all


class Users:
    """Users as Auth0 shows them.

    A stored user is never changed in place: `put` a new one.
    """

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self.ingest_by_id: dict[str, User] = {}
        self.lagging: set[str] = set()  # the index keeps showing these users' previous copy
        self._previous: dict[str, User] = {}
        self._waiting: deque[tuple[float, str, User | None]] = deque()  # changes that do not show yet
        self._indexed: dict[str, User] = {}
        self._orders = {name: Order() for name in ORDERS}
        self._identities: dict[tuple[str, str], set[str]] = {}  # a searchable value -> users

    def put(self, user: User) -> None:
        """Add or replace a user.

        The index follows after the settable lag unless it is held back.
        """
        name = user["user_id"]
        if name in self.ingest_by_id:
            self._previous[name] = self.ingest_by_id[name]
        self.ingest_by_id[name] = user
        if name not in self.lagging:
            self._follow(name, user)

    def remove(self, name: str) -> User:
        """Delete a user. Raises KeyError."""
        user = self.ingest_by_id.pop(name)
        self._previous.pop(name, None)
        self.lagging.discard(name)
        self._follow(name, None)
        return user

    def lag(self, name: str, behind: bool) -> None:
        """Hold a user back in the index, or release it.

        The index then shows the copy from before the user's last change.
        """
        (self.lagging.add if behind else self.lagging.discard)(name)
        current = self.ingest_by_id[name]
        self._index(name, self._previous.get(name, current) if behind else current)

    def search(
        self, query: Every, sort: tuple[str, bool], start: int, count: int, totals: bool
    ) -> tuple[list[User], int]:
        """Find up to `count` users from `start` on.

        Also gives how many there are in all, where `totals` asks for it.
        `sort` is a field and whether it descends.
        """
        self._catch_up()
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

    def _candidates(self, query: Every, field: str) -> tuple[Stretch, Every]:
        """Narrow a search by id, identity or time.

        This looks at no more users than it must, and gives what is left to check.
        """
        names = self._named(query)
        if names is not None or field not in self._orders:
            found = self._indexed if names is None else names
            return Stretch(sorted((_key(self._indexed[name], field), name) for name in found)), query
        low, high, rest = _bounds(query.parts, field)
        return self._orders[field].between(low, high), rest

    def _named(self, query: Every) -> Iterable[str] | None:
        for part in query.parts:
            if not isinstance(part, Term) or part.prefix:
                continue
            if part.field == "user_id":
                return [part.value] if part.value in self._indexed else []
            if part.field in ("identities.user_id", "identities.connection"):
                names = self._identities.get((part.field, part.value), set())
                if len(names) < FEW:
                    return names
        return None

    def _follow(self, name: str, user: User | None) -> None:
        self._catch_up()
        if self._settings.search_lag:
            self._waiting.append((self._clock.now() + self._settings.search_lag, name, user))
        else:
            self._index(name, user)

    def _catch_up(self) -> None:
        now = self._clock.now() if self._waiting else 0.0
        while self._waiting and (self._waiting[0][0] <= now or not self._settings.search_lag):
            _, name, user = self._waiting.popleft()
            if name not in self.lagging:
                self._index(name, user)

    def _index(self, name: str, user: User | None) -> None:
        before = self._indexed.pop(name, None)
        for field, order in self._orders.items():
            was, now = before and _key(before, field), user and _key(user, field)
            if was == now:
                continue
            if was is not None:
                order.discard(was, name)
            if now is not None:
                order.add(now, name)
        for value in () if before is None else _searchable(before):
            self._identities[value].discard(name)
        if user is not None:
            self._indexed[name] = user
            for value in _searchable(user):
                self._identities.setdefault(value, set()).add(name)


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


def _searchable(user: User) -> set[tuple[str, str]]:
    identities = [identity for identity in user.get("identities") or () if isinstance(identity, dict)]
    return {
        (f"identities.{field}", str(identity[field]))
        for identity in identities
        for field in ("user_id", "connection")
        if field in identity
    }


def _key(user: User, field: str) -> int | str:
    """Give a user's sort key.

    Times are milliseconds, 0 where there is none.
    """
    value: Any = user.get(field)
    if field == "user_id" or field not in ORDERS:
        return 0 if field == "user_id" else str("" if value is None else value)
    try:
        return milliseconds(value)
    except (TypeError, ValueError):
        return 0
