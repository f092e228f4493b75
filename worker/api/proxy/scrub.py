"""Removes tokens from providers' answers.

Pure. A token is found as it is, and in the encodings in which servers repeat what they were sent: percent-encoding,
JSON and HTML escapes, base64 in each alignment, hexadecimal, UTF-16. It may be split over the pieces of a stream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence

from worker.api.proxy.unescaped import MAX_ESCAPE_BYTES, SPECIAL, Unescaped, step_back

REPLACEMENT = b"[removed]"

# The longest form of one character, such as a JSON escape in UTF-16.
_MAX_BYTES_A_CHARACTER = 14

# Of a long token only the end is searched by a pattern: compiling one for the whole token would take a second.
_END_CHARACTERS = 16
# Shorter tokens are searched by a pattern as a whole.
MIN_LONG = 24

# Smaller pieces are collected before they are searched, as the bytes held back are searched again each time.
_MIN_PIECE = 16_384

Span = tuple[int, int]

_STANDARD_BASE64 = bytes.maketrans(b"-_", b"+/")
_LOWER_CASE = bytes(range(256)).lower()
# The last character of base64 that encodes a part of the token, and the padding after it.
_SHARED = re.compile(rb"(?:[A-Za-z0-9+/_-]={0,2})?")


class TokenScrubber:
    """Replaces tokens in a stream of bytes.

    It holds back the last bytes, as a token could begin in them and end in the next piece.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._needles = [needle for token in tokens if token for needle in _needles(token.encode())]
        longest = max((len(token) for token in tokens), default=0)
        # Hexadecimal has twice as many characters, base64 four thirds.
        self._kept_back = 2 * longest * _MAX_BYTES_A_CHARACTER
        self._pending = b""

    @property
    def pending_bytes(self) -> int:
        """How many bytes are held back."""
        return len(self._pending)

    def searched_by(self, size: int) -> int:
        """Return how many bytes ``feed`` searches for such a piece."""
        pending = len(self._pending) + size
        return pending if pending > 2 * self._kept_back + _MIN_PIECE else 0

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return bytes that can be passed on."""
        is_searched = self.searched_by(len(piece))
        self._pending += piece
        if not is_searched:
            return b""
        return self._release(len(self._pending) - self._kept_back)

    def finish(self) -> bytes:
        """Return the bytes that were held back."""
        return self._release(len(self._pending))

    def contains_token(self, value: bytes) -> bool:
        """Whether a complete value contains a token."""
        return any(self._spans(value))

    def _release(self, end: int) -> bytes:
        """Return the bytes before an end, without tokens.

        A token that begins before the end and stops after it is removed, too.
        """
        out, position = [], 0
        for start, stop in sorted(self._spans(self._pending)):
            if start >= end:
                break
            if stop <= position:
                continue
            if start >= position:
                out += [self._pending[position:start], REPLACEMENT]
            position = stop
        out.append(self._pending[position:end])
        self._pending = self._pending[max(position, end) :]
        return b"".join(out)

    def _spans(self, text: bytes) -> Iterator[Span]:
        """Yield the start and stop of each token found."""
        unescaped = Unescaped(text)
        for needle in self._needles:
            yield from needle.find(unescaped)


class _Core:
    """A long token or encoded token, without special characters.

    It is searched in the unescaped text, in linear time. Its first characters are left out of the search, as they may
    seem to be the end of an escape: "%" followed by the token "41…" looks like the escape "%41". The rest is long enough
    that it cannot occur by chance.

    Args:
        form: the token, or its encoding.
        table: translates each byte of the unescaped text.
        after: matches the bytes behind it that encode a part of the token.
    """

    def __init__(
        self, form: bytes, table: bytes | None = None, after: re.Pattern[bytes] | None = None
    ) -> None:
        self._table = table
        self._after = after
        self._start, self._core = form[: MAX_ESCAPE_BYTES - 1], form[MAX_ESCAPE_BYTES - 1 :]

    def find(self, text: Unescaped) -> Iterator[Span]:
        """Yield where it begins and ends in the source."""
        found = text.translated(self._table)
        position, done, length = found.find(self._core), 0, len(self._core)
        while position >= 0:
            start = step_back(text.source, text.source_start(position), done, self._start, self._table)
            # A token that consists of repetitions may occur again before it ends.
            while (again := found.rfind(self._core, position + 1, position + 2 * length - 1)) >= 0:
                position = again
            end = position + length
            stop = text.source_end(end)
            if self._after is not None and (match := self._after.match(text.source, stop)):
                stop = match.end()
            yield start, stop
            position, done = found.find(self._core, end), stop


class _End:
    """A long token with special characters.

    Its last characters are searched by a pattern; from there the others are compared backwards, one by one.
    """

    def __init__(self, token: bytes) -> None:
        self._start = token[:-_END_CHARACTERS]
        self._end = re.compile(_text(token[-_END_CHARACTERS:]))

    def find(self, text: Unescaped) -> Iterator[Span]:
        """Yield where it begins and ends in the source."""
        done = 0
        for match in self._end.finditer(text.source):
            yield step_back(text.source, match.start(), done, self._start), match.end()
            done = match.end()


class _Whole:
    """A short token or encoded token, searched by a pattern."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = re.compile(pattern)

    def find(self, text: Unescaped) -> Iterator[Span]:
        """Yield where it begins and ends in the source."""
        return (match.span() for match in self._pattern.finditer(text.source))


def _needles(token: bytes) -> list[_Core | _End | _Whole]:
    """Return all forms of a token to search for."""
    encoded = [_base64(token, offset) for offset in range(3)]
    if len(token) < MIN_LONG:
        return [
            _Whole(_text(token)),
            _Whole(_hexadecimal(token)),
            *(_Whole(_base64_pattern(form, is_shared=is_shared)) for form, is_shared in encoded),
        ]
    return [
        _End(token) if SPECIAL.search(token) else _Core(token),
        _Core(token.hex().encode(), _LOWER_CASE),
        *(_Core(form, _STANDARD_BASE64, _SHARED if is_shared else None) for form, is_shared in encoded),
    ]


def _text(raw: bytes) -> bytes:
    # In UTF-16 each second byte is NUL.
    return rb"\x00?".join(map(_character, raw))


def _character(code: int) -> bytes:
    """Return a pattern for a character, escaped or not."""
    hexadecimal = _hexadecimal(b"%c" % code)
    ways = [
        re.escape(b"%c" % code),
        rb"%%(?:25){0,2}%s" % hexadecimal,
        rb"\\{1,2}[uU]00%s" % hexadecimal,
        rb"\\x%s" % hexadecimal,
        rb"&\#0{0,3}%d;" % code,
        rb"&\#[xX]0{0,2}%s;" % hexadecimal,
    ]
    if code in b"/=+\"'":
        ways.append(rb"\\{1,3}%s" % re.escape(b"%c" % code))
    return b"(?:%s)" % b"|".join(ways)


def _base64(token: bytes, offset: int) -> tuple[bytes, bool]:
    """Return the base64 characters that encode only the token.

    And whether the token's last bits are in the next character, together with bits of what follows.

    Args:
        token: to encode.
        offset: of the token from a multiple of three bytes, 0 to 2.
    """
    bits = 8 * (offset + len(token))
    return base64.b64encode(bytes(offset) + token)[(8 * offset + 5) // 6 : bits // 6], bits % 6 > 0


def _base64_pattern(form: bytes, *, is_shared: bool) -> bytes:
    # Lines are folded at 64 or 76 characters (RFC 7468, RFC 2045).
    whole = rb"(?:\r?\n|\\r\\n|\\n)?".join(map(_base64_character, form))
    return whole + (_SHARED.pattern if is_shared else b"")


def _base64_character(code: int) -> bytes:
    if code == ord("+"):
        return b"(?:%s|-)" % _character(code)
    if code == ord("/"):
        return b"(?:%s|_)" % _character(code)
    return b"%c" % code


def _hexadecimal(raw: bytes) -> bytes:
    return b"".join(b"[%c%c]" % (c, c - 32) if c >= 97 else b"%c" % c for c in raw.hex().encode())
