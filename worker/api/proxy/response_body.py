"""The body of a provider's answer: decoded, bounded, without tokens."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from worker.api.proxy.scrub import TokenScrubber

# A compressed piece may stand for a thousand times its size: it is decoded in parts.
DECODED_PIECE_BYTES = 65_536

# More is searched in a thread: a megabyte of escapes takes a second, for which no other request would be served. One
# thread for all, so that the event loop has half of the time at least.
_MAX_SEARCHED_HERE = 16_384
_SEARCH = ThreadPoolExecutor(1, "token-vault search")


class AnswerCut(Exception):
    """An answer that cannot be passed on to its end.

    The caller's connection is closed in the middle, so that it does not look whole.
    """


class UnreadableEncoding(Exception):
    """A content encoding in which no token could be found."""


class Decoder:
    """Decodes a body, in parts of bounded size.

    Args:
        encoding: the header ``Content-Encoding``.

    Raises:
        UnreadableEncoding: it is neither gzip nor deflate.
    """

    def __init__(self, encoding: str) -> None:
        names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
        names = [name for name in names if name != "identity"]
        if names and (len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate")):
            raise UnreadableEncoding(encoding)
        # 32: the header says whether it is gzip or zlib.
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if names else None

    def decode(self, piece: bytes) -> Iterator[bytes]:
        """Yield the parts of a piece.

        Raises:
            AnswerCut: the piece is not what the encoding says.
        """
        if self._inflate is None:
            yield piece
            return
        while piece:
            if self._inflate.eof:
                raise AnswerCut("the body goes on after its end")
            try:
                yield self._inflate.decompress(piece, DECODED_PIECE_BYTES)
            except zlib.error:
                raise AnswerCut("the body is not encoded as it says") from None
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data

    def finish(self) -> Iterator[bytes]:
        """Yield the rest.

        Raises:
            AnswerCut: the end is missing.
        """
        if self._inflate is None:
            return
        while rest := self._inflate.decompress(b"", DECODED_PIECE_BYTES):
            yield rest
        if not self._inflate.eof:
            raise AnswerCut("the body ends too early")


async def clean_body(
    pieces: AsyncIterator[bytes], decoder: Decoder, scrubber: TokenScrubber, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield a body as the caller gets it.

    Raises:
        AnswerCut: it is too long, or not what it says.
    """
    length = 0
    async for piece in pieces:
        for part in decoder.decode(piece):
            length += len(part)
            if length > max_bytes:
                raise AnswerCut(f"the answer has more than {max_bytes} bytes")
            if clean := await _run(scrubber.searched_by(len(part)), scrubber.feed, part):
                yield clean
    for part in decoder.finish():
        length += len(part)
        if length > max_bytes:
            raise AnswerCut(f"the answer has more than {max_bytes} bytes")
        yield await _run(scrubber.searched_by(len(part)), scrubber.feed, part)
    yield await _run(scrubber.pending_bytes, scrubber.finish)


async def _run(searched_bytes: int, search: Callable[..., bytes], *arguments: bytes) -> bytes:
    """Search what is long in a thread."""
    if searched_bytes <= _MAX_SEARCHED_HERE:
        return search(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_SEARCH, search, *arguments)
