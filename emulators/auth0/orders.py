"""User ids sorted by a field.

Quick to change and to look into.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

MANY = 100  # additions out of order that are cheaper sorted together than put in one by one

Key = tuple[Any, str]  # the field's value, the user id


class Stretch:
    """Part of an order, in either direction, without copying it."""

    def __init__(self, keys: list[Key], places: range | None = None) -> None:
        self._keys = keys
        self._places = range(len(keys)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return (self._keys[place][1] for place in self._places)

    def part(self, start: int, count: int) -> list[str]:
        """Give at most `count` ids from `start`."""
        return [self._keys[place][1] for place in self._places[start : start + count]]

    def reversed(self) -> "Stretch":
        """Give it the other way round."""
        return Stretch(self._keys, self._places[::-1])


class Order:
    """All user ids by one field, then by id.

    What is added out of order is put in when somebody looks.
    """

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._loose: list[Key] = []

    def add(self, value: Any, name: str) -> None:
        """Put a user in."""
        in_order = not self._keys or self._keys[-1] < (value, name)
        (self._keys if in_order else self._loose).append((value, name))

    def discard(self, value: Any, name: str) -> None:
        """Take a user out that is in."""
        self._settle()
        del self._keys[bisect_left(self._keys, (value, name))]

    def between(self, low: Any, high: Any) -> Stretch:
        """Give those from `low` to before `high`; None is open."""
        self._settle()
        first = 0 if low is None else bisect_left(self._keys, (low, ""))
        last = len(self._keys) if high is None else bisect_left(self._keys, (high, ""))
        return Stretch(self._keys, range(first, last))

    def _settle(self) -> None:
        if len(self._loose) < MANY:
            for key in self._loose:
                insort(self._keys, key)
        else:
            self._keys += self._loose
            self._keys.sort()
        self._loose.clear()
