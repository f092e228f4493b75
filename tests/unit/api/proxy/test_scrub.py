"""A provider's token is taken out of what it answers."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.proxy.scrub import REPLACEMENT, TokenScrubber, _Form, _forms

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
    for count in range(1, 200):
        given_out += len(scrubber.feed(b"a" * 10_000))
        assert count * 10_000 - given_out < 50_000


def test_a_long_token_is_not_compiled_unless_it_comes() -> None:
    """Only the ends of a token are patterns from the start: the whole of a long one takes a second to compile."""

    def whole() -> bytes:
        raise AssertionError("compiled")

    assert _Form(b"end", whole).find(b"a body without it") == []
    assert all(len(form._end.pattern) < 5000 for form in _forms("k" * 4000))
