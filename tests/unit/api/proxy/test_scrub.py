"""A provider's token is taken out of what it answers."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.proxy import unescaped as unescaped_module
from worker.api.proxy.scrub import (
    MIN_LONG,
    REPLACEMENT,
    TokenScrubber,
    _base64,
    _base64_pattern,
    _hexadecimal,
    _text,
)
from worker.api.proxy.unescaped import SPECIAL, Unescaped

TOKEN = "ya29.A0/b+C=d_e-F~g.h|1"

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "percent": lambda token: quote(token, safe="").encode(),
    "percent, lower case": lambda token: "".join(f"%{byte:02x}" for byte in token.encode()).encode(),
    "percent of all": lambda token: "".join(f"%{byte:02X}" for byte in token.encode()).encode(),
    "percent, twice": lambda token: quote(quote(token, safe=""), safe="").encode(),
    "json": lambda token: json.dumps(token)[1:-1].encode(),
    "json, slashes": lambda token: json.dumps(token)[1:-1].replace("/", "\\/").encode(),
    "json, escaped": lambda token: "".join(f"\\u{ord(c):04x}" for c in token).encode(),
    "html": lambda token: html.escape(token).encode(),
    "html, numbers": lambda token: "".join(f"&#{ord(c)};" for c in token).encode(),
    "html, hexadecimal": lambda token: "".join(f"&#x{ord(c):X};" for c in token).encode(),
    "hexadecimal": lambda token: token.encode().hex().encode(),
    "hexadecimal, capitals": lambda token: token.encode().hex().upper().encode(),
    "utf-16": lambda token: token.encode("utf-16-le"),
    "utf-16, big": lambda token: token.encode("utf-16-be"),
    "base64": lambda token: base64.b64encode(token.encode()),
    "base64, of a header": lambda token: base64.b64encode(f"Bearer {token}\r\n".encode()),
    "base64, one before": lambda token: base64.b64encode(f"x{token}".encode()),
    "base64, two before": lambda token: base64.b64encode(f"xy{token}z".encode()),
    "base64, url": lambda token: base64.urlsafe_b64encode(f'{{"t":"{token}"}}'.encode()),
    "base64, in json": lambda token: base64.b64encode(token.encode()).replace(b"/", b"\\/"),
    "base64, in a url": lambda token: quote(base64.b64encode(token.encode()), safe="").encode(),
    "base64, folded": lambda token: base64.encodebytes(b"x" * 60 + token.encode()),
}


def scrub(scrubber: TokenScrubber, body: bytes, size: int) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join([*map(scrubber.feed, pieces), scrubber.finish()])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_a_token_is_found_in_each_encoding(encoding: str, size: int) -> None:
    """An echoed token is replaced in each encoding, however the stream is cut."""
    echoed = ENCODINGS[encoding](TOKEN)
    body = b'{"before": 1, "echo": "' + echoed + b'", "after": 2}'
    cleaned = scrub(TokenScrubber([TOKEN]), body, size)
    assert REPLACEMENT in cleaned
    assert cleaned.startswith(b'{"before": 1, "echo": "')
    assert cleaned.endswith(b'", "after": 2}')
    assert echoed not in cleaned
    assert TokenScrubber([TOKEN]).contains_token(body)


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from(sorted(ENCODINGS)), max_size=6),
    st.integers(1, 200),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=40),
)
def test_no_token_passes_in_any_stream(parts: list[bytes | str], size: int, token: str) -> None:
    """No mixture of bytes and echoed tokens lets one through."""
    body = b"".join(ENCODINGS[part](token) if isinstance(part, str) else part for part in parts)
    cleaned = scrub(TokenScrubber([token]), body, size)
    assert token.encode() not in cleaned
    assert base64.b64encode(token.encode()).rstrip(b"=")[:-1] not in cleaned
    if not any(isinstance(part, str) for part in parts) and token.encode() not in body:
        assert REPLACEMENT in cleaned or cleaned == body


def test_a_token_is_found_over_the_border_of_a_long_stream() -> None:
    """A token between two pieces of a long stream is found, and the rest is unchanged."""
    filler = bytes(range(256)) * 400
    for cut in range(1, len(TOKEN), 5):
        scrubber = TokenScrubber([TOKEN])
        token = TOKEN.encode()
        pieces = [filler + token[:cut], token[cut:] + filler, filler + token, filler]
        cleaned = b"".join([*map(scrubber.feed, pieces), scrubber.finish()])
        assert cleaned == filler + REPLACEMENT + filler + filler + REPLACEMENT + filler


def test_a_stream_goes_on_while_it_comes() -> None:
    """No more of a stream is held back than a token's longest form, and some."""
    scrubber, given_out = TokenScrubber([TOKEN]), 0
    for number in range(1, 200):
        given_out += len(scrubber.feed(b"a" * 10_000))
        assert number * 10_000 - given_out < 50_000


# Characters of which escapes are made, and others.
TRICKY = st.text('014ac%\\u&#x;/=+"-_.nZ~', min_size=MIN_LONG, max_size=50)
LONG_TOKENS = TRICKY | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=MIN_LONG, max_size=50
)
# Ways to write one byte.
WAYS: list[Callable[[int], bytes]] = [
    lambda code: b"%c" % code,
    lambda code: b"%%%02x" % code,
    lambda code: b"%%25%02X" % code,
    lambda code: b"%%2525%02X" % code,
    lambda code: b"\\u%04x" % code,
    lambda code: b"\\\\u%04X" % code,
    lambda code: b"\\x%02x" % code,
    lambda code: b"&#%d;" % code,
    lambda code: b"&#%06d;" % code if code > 99 else b"&#0%d;" % code,
    lambda code: b"&#x%02x;" % code,
    lambda code: (b"\\\\\\%c" if code in b"/=+\"'" else b"%c\x00") % code,
]


def whole_patterns(token: str) -> list[bytes]:
    """Patterns of a whole token in each encoding: slow to compile, and simple."""
    raw = token.encode()
    forms = [_base64(raw, offset) for offset in range(3)]
    return [_text(raw), _hexadecimal(raw), *(_base64_pattern(form, is_shared=end) for form, end in forms)]


@given(LONG_TOKENS, st.data())
def test_what_a_whole_pattern_finds_is_removed(token: str, data: st.DataObject) -> None:
    """What a pattern of the whole token matches is removed, in any text and encoding.

    Of a token with special characters a part is enough.
    """

    def in_any_way(text: str) -> bytes:
        return b"".join(data.draw(st.sampled_from(WAYS))(code) for code in text.encode())

    parts = data.draw(
        st.lists(
            st.sampled_from(sorted(ENCODINGS))
            | st.sampled_from(
                [b"%", b"%2", b"%25", b"\\", b"\\u", b"\\u00", b"&#", b"&#x", b"\\x", b"\x00", b"\n"]
            )
            | st.none()
            | st.text('014ac%\\u&#x;/=+"', max_size=12).map(str.encode),
            max_size=5,
        )
    )
    body = b"".join(
        in_any_way(token) if part is None else ENCODINGS[part](token) if isinstance(part, str) else part
        for part in parts
    )
    scrubber = TokenScrubber([token])
    removed = {at for start, stop in scrubber._spans(body) for at in range(start, stop)}
    for pattern in whole_patterns(token)[1 if SPECIAL.search(token.encode()) else 0 :]:
        for match in re.finditer(pattern, body):
            assert removed.issuperset(range(*match.span())), (pattern, match)
    cleaned = scrub(scrubber, body, data.draw(st.integers(1, 100)))
    assert not any(re.search(pattern, cleaned) for pattern in whole_patterns(token))


@pytest.mark.parametrize(
    ("before", "begins"), [("%", "41"), ("%25", "41"), ("\\u", "0041"), ("&#", "65;"), ("&#x", "0041;")]
)
def test_a_token_that_looks_like_the_end_of_an_escape_is_removed(before: str, begins: str) -> None:
    """What stands before a token cannot make its first characters another one."""
    token = begins + "bcdefghijklmnopqrstuvwxyz"
    assert (
        scrub(TokenScrubber([token]), f"{before}{token} ".encode(), 1000)
        == before.encode() + REPLACEMENT + b" "
    )


@given(st.binary(max_size=300) | st.text('01a%\\u&#x;/"nr', max_size=100).map(str.encode), st.data())
def test_an_unescaped_text_knows_its_source(source: bytes, data: st.DataObject) -> None:
    """Each part of an unescaped text comes from a part of the source that says the same."""
    unescaped = Unescaped(source)
    text = unescaped.translated(None)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = unescaped.source_start(start), unescaped.source_end(end)
    if start < end:
        assert Unescaped(source[first:last]).translated(None) == text[start:end]


# Each of which was a second of the event loop, or would be one.
SLOW: dict[str, tuple[str, bytes]] = {
    "a long token": ("".join(f"{number:x}-" for number in range(1200)), b'{"echo": "%s"}'),
    "a long token with special characters": ("".join(f"{number:x}%" for number in range(1200)), b"%s"),
    "its first character is missing": ("x" + "a" * 4000, b"a" * 16_000),
    "all is escaped": ("x" + "a" * 4000, b"%61" * 5000),
    "special characters alone": ("x" + "%" * 4000, b"%25" * 5000),
}


@pytest.mark.parametrize("case", SLOW)
def test_no_token_takes_long(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pattern is longer than some characters, and no byte of a text is looked at often."""
    token, body = SLOW[case]
    compiled: list[int] = []
    steps = count()
    compile_pattern, starts = re.compile, unescaped_module._starts

    def compile_counted(pattern: bytes) -> re.Pattern[bytes]:
        compiled.append(len(pattern))
        return compile_pattern(pattern)

    def starts_counted(*arguments: Any) -> Iterator[int]:
        next(steps)
        return starts(*arguments)

    monkeypatch.setattr(re, "compile", compile_counted)
    monkeypatch.setattr(unescaped_module, "_starts", starts_counted)
    cleaned = scrub(TokenScrubber([token]), body.replace(b"%s", token.encode()), 16_384)
    assert REPLACEMENT in cleaned
    assert token.encode() not in cleaned
    assert max(compiled, default=0) < 4000
    assert next(steps) < 20_000
