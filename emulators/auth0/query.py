"""The part of Lucene's syntax that a sync needs.

Terms (`user_id:"a"`, `identities.connection:"b"`, a bare word, `prefix*`), value lists (`user_id:("a" OR "b")`),
ranges with either bound inclusive or not (`updated_at:[a TO *}`), AND, OR, NOT and parentheses.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emulators.clock import milliseconds

User = dict[str, Any]
_TOKEN = re.compile(
    r"""\s*(?:(?P<range>[\[{][^\]}]*[\]}])|(?P<quoted>"(?:\\.|[^"\\])*")|(?P<mark>[():])"""
    r"""|(?P<field>[\w.]+)(?=:)|(?P<word>[^\s()"\[\]{}]+))"""
)
_BOUND = r'"?([^\s"\]}]+)"?'
_RANGE = re.compile(rf"([\[{{])\s*{_BOUND}\s+TO\s+{_BOUND}\s*([\]}}])")


class MalformedQuery(ValueError):
    """`q` is not in the syntax."""


@dataclass(frozen=True, slots=True)
class Term:
    """One value of a field."""

    field: str
    value: str
    prefix: bool = False

    def matches(self, user: User) -> bool:
        """Tell whether any value at the field is this one."""
        found = (str(value) for value in _values(user, self.field.split(".")))
        return any(text.startswith(self.value) if self.prefix else text == self.value for text in found)


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range of a time field.

    From `low` (inclusive) to `high` (exclusive), in milliseconds; None is open.
    """

    field: str
    low: int | None
    high: int | None

    def matches(self, user: User) -> bool:
        """Tell whether any time at the field lies within."""
        return any(self._holds(value) for value in _values(user, self.field.split(".")))

    def _holds(self, value: Any) -> bool:
        try:
            at = milliseconds(value)
        except (TypeError, ValueError):
            return False
        return (self.low is None or self.low <= at) and (self.high is None or at < self.high)


@dataclass(frozen=True, slots=True)
class Every:
    """All parts must match; of no parts, everything does."""

    parts: tuple["Node", ...] = ()

    def matches(self, user: User) -> bool:
        """Tell whether all parts match."""
        return all(part.matches(user) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Either:
    """One part must match."""

    parts: tuple["Node", ...]

    def matches(self, user: User) -> bool:
        """Tell whether a part matches."""
        return any(part.matches(user) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Neither:
    """The part must not match."""

    part: "Node"

    def matches(self, user: User) -> bool:
        """Tell whether the part does not match."""
        return not self.part.matches(user)


Node = Term | Range | Every | Either | Neither


def parse(text: str) -> Every:
    """Read `q`. Raises MalformedQuery."""
    if not text.strip():
        return Every()
    reader = _Reader(list(_tokens(text)))
    node = reader.alternatives("")
    reader.expect_end()
    return node if isinstance(node, Every) else Every((node,))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise MalformedQuery(f"unexpected {text[at]!r}")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens

    def alternatives(self, field: str) -> Node:
        parts = [self._conjunction(field)]
        while self._take("word", "OR"):
            parts.append(self._conjunction(field))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def expect_end(self) -> None:
        if self._tokens:
            raise MalformedQuery(f"unexpected {self._tokens[0][1]!r}")

    def _conjunction(self, field: str) -> Node:
        parts = [self._part(field)]
        while self._take("word", "AND"):
            parts.append(self._part(field))
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _part(self, field: str) -> Node:
        if self._take("word", "NOT"):
            return Neither(self._part(field))
        if self._take("mark", "("):
            inner = self.alternatives(field)
            if not self._take("mark", ")"):
                raise MalformedQuery("missing )")
            return inner
        if not self._tokens:
            raise MalformedQuery("it ends too early")
        kind, text = self._tokens.pop(0)
        if kind == "field" and not field:
            self._take("mark", ":")
            return self._part(text)
        if not field or kind not in ("quoted", "word", "range"):
            raise MalformedQuery(f"unexpected {text!r}")
        return _value(field, kind, text)

    def _take(self, kind: str, text: str) -> bool:
        if self._tokens and self._tokens[0] == (kind, text):
            self._tokens.pop(0)
            return True
        return False


def _value(field: str, kind: str, text: str) -> Node:
    if kind == "quoted":
        return Term(field, re.sub(r"\\(.)", r"\1", text[1:-1]))
    if kind == "word":
        plain = re.sub(r"\\(.)", r"\1", text)
        return Term(field, plain[:-1], prefix=True) if plain.endswith("*") else Term(field, plain)
    found = _RANGE.fullmatch(text)
    if found is None:
        raise MalformedQuery(f"not a range: {text}")
    opening, low, high, closing = found.groups()
    return Range(field, _bound(low, opening == "{"), _bound(high, closing == "]"))


def _bound(text: str, step: bool) -> int | None:
    if text == "*":
        return None
    try:
        return milliseconds(text) + step
    except ValueError:
        raise MalformedQuery(f"not a date: {text}") from None


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for element in value:
            yield from _values(element, path)
    elif not path:
        if value is not None:
            yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])
