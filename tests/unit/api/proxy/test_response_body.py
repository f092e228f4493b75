"""Where the body of an answer is searched."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import pytest

from worker.api.proxy.response_body import AnswerCut, Decoder, UnreadableEncoding, clean_body
from worker.api.proxy.scrub import TokenScrubber

TOKEN = "ya29.the-token-of-the-provider-that-nobody-sees"


class Watched(TokenScrubber):
    """Notes in which threads it searches."""

    def __init__(self) -> None:
        super().__init__([TOKEN])
        self.threads: list[threading.Thread] = []

    def _release(self, end: int) -> bytes:
        self.threads.append(threading.current_thread())
        return super()._release(end)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def clean(scrubber: TokenScrubber, *given: bytes) -> bytes:
    found = [part async for part in clean_body(pieces(*given), Decoder(""), scrubber, 10_000_000)]
    return b"".join(found)


async def test_a_long_body_is_searched_beside_other_requests() -> None:
    """No piece of it is searched by the thread that serves them; a token over the pieces' border is found."""
    scrubber, filler, token = Watched(), b"%41" * 20_000, TOKEN.encode()
    body = await clean(scrubber, filler + token[:9], token[9:] + filler, filler, filler)
    assert body == filler + b"[removed]" + filler * 3
    assert len(scrubber.threads) > 2
    *long, _rest = scrubber.threads
    assert threading.current_thread() not in long


async def test_a_short_body_is_searched_at_once() -> None:
    """A change of threads would cost more than the search."""
    scrubber = Watched()
    assert await clean(scrubber, b"<" + TOKEN.encode(), b">") == b"<[removed]>"
    assert set(scrubber.threads) == {threading.current_thread()}


async def test_a_body_beyond_the_bound_is_cut() -> None:
    """The bound is of what is decoded, and holds to the byte."""
    for size, is_cut in ((10_000_000, False), (10_000_001, True)):
        try:
            found = await clean(TokenScrubber([]), b"x" * size)
        except AnswerCut:
            assert is_cut
        else:
            assert (len(found), is_cut) == (size, False)


def test_a_second_encoding_is_refused() -> None:
    """A body that stays packed below the first could hold a token."""
    for encoding in ("br", "gzip, gzip", "gzip, deflate", "zstd", "compress"):
        with pytest.raises(UnreadableEncoding):
            Decoder(encoding)
    for encoding in ("", "identity", " GZip ,", "x-gzip", "identity, deflate"):
        Decoder(encoding)
