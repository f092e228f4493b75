"""Takes tokens out of what providers answer.

Pure. It is found in plain, and in the encodings in which answers repeat what they were sent:
percent-encoding, JSON and HTML escapes, base64 in each alignment, hexadecimal, UTF-16;
also where it is split over the pieces of a stream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from functools import partial

REPLACEMENT = b"[removed]"

# Bytes of the longest form of one character: "%2525" and two digits, or a JSON escape with NULs in between.
_MAX_BYTES_A_CHARACTER = 14

# By which a token is looked for first: its beginning may be that of many tokens.
_END_CHARACTERS = 16

# Smaller pieces are gathered: what is held back is searched again with each.
_MIN_PIECE = 16_384


class TokenScrubber:
    """Replaces tokens in a stream of bytes.

    It holds back as many bytes as a token could still begin in.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        # One by one: an alternative of all could not be searched by its first characters.
        self._forms = [form for token in tokens if token for form in _forms(token)]
        longest = max((len(token) for token in tokens), default=0)
        # Twice the characters in hexadecimal; four thirds in base64.
        self._kept_back = 2 * longest * _MAX_BYTES_A_CHARACTER
        self._pending = b""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece, and return what can go on."""
        self._pending += piece
        if len(self._pending) <= 2 * self._kept_back + _MIN_PIECE:
            return b""
        return self._release(len(self._pending) - self._kept_back)

    def finish(self) -> bytes:
        """Return what was held back."""
        return self._release(len(self._pending))

    def contains_token(self, value: bytes) -> bool:
        """Whether a whole value, of a header, has a token."""
        return any(form.find(value) for form in self._forms)

    def _release(self, end: int) -> bytes:
        """Replace the tokens that begin before an end."""
        out, position = [], 0
        for start, stop in self._spans():
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

    def _spans(self) -> list[tuple[int, int]]:
        return sorted(span for form in self._forms for span in form.find(self._pending))


class _Form:
    """One encoding of a token.

    The whole pattern of a long token takes a second to compile: it is made where its end is found.

    Args:
        end: the pattern of the last characters.
        whole: makes the pattern of all.
    """

    def __init__(self, end: bytes, whole: Callable[[], bytes]) -> None:
        self._end = re.compile(end)
        self._whole = whole

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Return where the token begins and ends."""
        if self._end.search(text) is None:
            return []
        return [match.span() for match in re.compile(self._whole()).finditer(text)]


def _forms(token: str) -> list[_Form]:
    """Return a token's encodings."""
    raw = token.encode()
    end = raw[-_END_CHARACTERS:]
    return [
        _Form(_text(end), partial(_text, raw)),
        *(_Form(_base64(raw, offset, _END_CHARACTERS), partial(_base64, raw, offset)) for offset in range(3)),
        _Form(_hexadecimal(end), partial(_hexadecimal, raw)),
    ]


def _text(raw: bytes) -> bytes:
    # NULs are half of UTF-16.
    return rb"\x00?".join(map(_character, raw))


def _character(code: int) -> bytes:
    """Match a character in plain and escaped."""
    hexadecimal = b"".join(b"[%c%c]" % (c, c - 32) if c >= 97 else b"%c" % c for c in b"%02x" % code)
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


def _base64(raw: bytes, offset: int, most: int | None = None) -> bytes:
    """Match the characters that no neighbour has a share in.

    Args:
        most: of them, from the end; None for all.
    """
    encoded = base64.b64encode(bytes(offset) + raw)
    first = (8 * offset + 5) // 6
    last = 8 * (offset + len(raw)) // 6
    if most is not None:
        first = max(first, last - most)
    # Lines are folded at 64 or 76 characters (RFC 7468, RFC 2045).
    whole = rb"(?:\r?\n|\\r\\n|\\n)?".join(map(_base64_character, encoded[first:last]))
    # The next character holds the last bits, and some of what follows.
    shared = rb"(?:[A-Za-z0-9+/_-]={0,2})?" if 8 * (offset + len(raw)) % 6 else b""
    return whole + shared


def _base64_character(code: int) -> bytes:
    if code == ord("+"):
        return b"(?:%s|-)" % _character(code)
    if code == ord("/"):
        return b"(?:%s|_)" % _character(code)
    return b"%c" % code


def _hexadecimal(raw: bytes) -> bytes:
    return b"".join(b"[%c%c]" % (c, c - 32) if c >= 97 else b"%c" % c for c in raw.hex().encode())
