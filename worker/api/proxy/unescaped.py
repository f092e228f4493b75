"""A text with its URL, JSON and HTML escapes decoded.

Positions in it can be mapped back to the source. NULs, which are half of the bytes of UTF-16, and line breaks are left
out.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property

# Bytes that begin an escape, are left out, or are escaped in JSON. Few tokens have them (RFC 6750, 2.1 allows none).
SPECIAL = re.compile(rb"[%\\&\x00\r\n\"']")

# The longest one is "&#000255;".
MAX_ESCAPE_BYTES = 9

# Each alternative begins with another byte, which makes the search several times as fast.
_LEFT_OUT = re.compile(rb"\x00|\r|\n|\\(?:r\\)?n")
_ESCAPE = re.compile(
    rb"%(?:25){0,2}([0-9a-fA-F]{2})"
    rb"|\\(?:\\?[uU]00([0-9a-fA-F]{2})|x([0-9a-fA-F]{2})|\\{0,2}([/=+]))"
    rb"|&\#(?:[xX]0{0,2}([0-9a-fA-F]{2})|0{0,3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[0-9]{1,2}));"
)
_LITERAL, _DECIMAL = 4, 6  # the groups whose text is no hexadecimal digits
_ESCAPE_ENDS = frozenset(b"0123456789abcdefABCDEF;/=+")


class _Positions:
    """Maps positions of a text to positions of its source."""

    def __init__(self) -> None:
        # Pairs of positions, of the text and the source, from which on both have the same bytes.
        self._at, self._from = [0], [0]

    def mark(self, at: int, source: int) -> None:
        """Add a pair of positions."""
        self._at.append(at)
        self._from.append(source)

    def start(self, position: int) -> int:
        """Return where a byte begins in the source."""
        last = bisect_right(self._at, position) - 1
        return self._from[last] + position - self._at[last]

    def end(self, position: int) -> int:
        """Return where the source of the bytes before it ends."""
        first = bisect_left(self._at, position)
        if first == len(self._at) or self._at[first] != position:
            first -= 1
        return self._from[first] + position - self._at[first]


class Unescaped:
    """A text, and the same with its escapes decoded.

    Attributes:
        source: the text itself.
    """

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._escapes = _Positions()
        self._translated: dict[bytes | None, bytes] = {None: self._decode(_LEFT_OUT.sub(b"", source))}

    def translated(self, table: bytes | None) -> bytes:
        """Return the decoded text, each byte translated by a table."""
        if table not in self._translated:
            self._translated[table] = self._translated[None].translate(table)
        return self._translated[table]

    def source_start(self, position: int) -> int:
        """Return where a byte begins in the source."""
        return self._left_out.start(self._escapes.start(position))

    def source_end(self, position: int) -> int:
        """Return where the source of the bytes before it ends."""
        return self._left_out.end(self._escapes.end(position))

    @cached_property
    def _left_out(self) -> _Positions:
        positions, left_out = _Positions(), 0
        for match in _LEFT_OUT.finditer(self.source):
            for end in match.span():
                positions.mark(match.start() - left_out, end)
            left_out += match.end() - match.start()
        return positions

    def _decode(self, escaped: bytes) -> bytes:
        text, done = bytearray(), 0
        for match in _ESCAPE.finditer(escaped):
            start, end = match.span()
            text += escaped[done:start]
            self._escapes.mark(len(text), start)
            text.append(_value(match))
            self._escapes.mark(len(text), end)
            done = end
        return bytes(text + escaped[done:]) if done else escaped


def step_back(text: bytes, end: int, stop: int, wanted: bytes, table: bytes | None = None) -> int:
    """Return where the last characters of ``wanted`` before ``end`` begin.

    It goes back as long as the characters match. Each may be escaped.

    Args:
        text: to look in.
        end: where the last character of ``wanted`` would end.
        stop: it does not go back beyond this position.
        wanted: the characters.
        table: translates each byte before it is compared.
    """
    reached = {end}
    for code in reversed(wanted):
        before = {start for position in reached for start in _starts(text, position, stop, code, table)}
        if not before:
            break
        reached = before
    return min(reached)


def _starts(text: bytes, end: int, stop: int, code: int, table: bytes | None) -> Iterator[int]:
    """Yield where a character that ends here may begin.

    Bytes that are left out may lie between its end and here.
    """
    while end > stop:
        if _translate(text[end - 1], table) == code:
            yield end - 1
        if text[end - 1] in _ESCAPE_ENDS:
            for start in range(max(stop, end - MAX_ESCAPE_BYTES), end - 1):
                match = _ESCAPE.fullmatch(text, start, end)
                if match and _translate(_value(match), table) == code:
                    yield start
        if text[end - 1] in b"\x00\r\n":
            end -= 1
        elif text[max(stop, end - 2) : end] in (b"\\r", b"\\n"):
            end -= 2
        else:
            return


def _translate(code: int, table: bytes | None) -> int:
    return code if table is None else table[code]


def _value(match: re.Match[bytes]) -> int:
    """Return the byte that an escape stands for."""
    group = match.lastindex or _LITERAL
    if group == _LITERAL:
        return match[group][0]
    return int(match[group], 10 if group == _DECIMAL else 16)
