"""A text without the escapes of URLs, JSON and HTML.

Each byte knows where it came from. NULs, which are half of UTF-16, and line breaks are left out.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property

# Bytes that few tokens have (RFC 6750, 2.1 allows none), and that begin an escape, are left out, or are escaped in JSON.
SPECIAL = re.compile(rb"[%\\&\x00\r\n\"']")

# "%2525" and two digits; a JSON escape within JSON; "&#000255;", which is the longest.
MAX_ESCAPE_BYTES = 9

# Each alternative begins with a byte of its own: so texts are searched several times as fast.
_LEFT_OUT = re.compile(rb"\x00|\r|\n|\\(?:r\\)?n")
_ESCAPE = re.compile(
    rb"%(?:25){0,2}([0-9a-fA-F]{2})"
    rb"|\\(?:\\?[uU]00([0-9a-fA-F]{2})|x([0-9a-fA-F]{2})|\\{0,2}([/=+]))"
    rb"|&\#(?:[xX]0{0,2}([0-9a-fA-F]{2})|0{0,3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[0-9]{1,2}));"
)
_LITERAL, _DECIMAL = 4, 6  # its groups that are no hexadecimal digits
_ESCAPE_ENDS = frozenset(b"0123456789abcdefABCDEF;/=+")


class _Positions:
    """Where the bytes of a text come from."""

    def __init__(self) -> None:
        # From each of these bytes of the text on, and of the source.
        self._at, self._from = [0], [0]

    def mark(self, at: int, source: int) -> None:
        """Add a position, from which on both go on alike."""
        self._at.append(at)
        self._from.append(source)

    def start(self, position: int) -> int:
        """Return where a byte begins in the source."""
        last = bisect_right(self._at, position) - 1
        return self._from[last] + position - self._at[last]

    def end(self, position: int) -> int:
        """Return where the source ends of what is before."""
        first = bisect_left(self._at, position)
        if first == len(self._at) or self._at[first] != position:
            first -= 1
        return self._from[first] + position - self._at[first]


class Unescaped:
    """A text and what it says without escapes.

    Attributes:
        source: as it came.
    """

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._escapes = _Positions()
        self._translated: dict[bytes | None, bytes] = {None: self._decode(_LEFT_OUT.sub(b"", source))}

    def translated(self, table: bytes | None) -> bytes:
        """Return the text, each byte translated."""
        if table not in self._translated:
            self._translated[table] = self._translated[None].translate(table)
        return self._translated[table]

    def source_start(self, position: int) -> int:
        """Return where a byte begins in the source."""
        return self._left_out.start(self._escapes.start(position))

    def source_end(self, position: int) -> int:
        """Return where the source ends of what is before."""
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
    """Return where characters begin that end before others.

    As many of them as there are; each may be escaped.

    Args:
        end: where the last of them ends.
        stop: the beginning, which is not passed.
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
    """Yield where a character begins that ends here.

    Or before what is left out.
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
    """Return what an escape stands for."""
    group = match.lastindex or _LITERAL
    if group == _LITERAL:
        return match[group][0]
    return int(match[group], 10 if group == _DECIMAL else 16)
