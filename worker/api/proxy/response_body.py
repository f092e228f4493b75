"""The body of a provider's answer: decoded, limited, without tokens."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from worker.api.proxy.scrub import TokenScrubber

# A piece may be a thousand times larger when decompressed, so it is decompressed in parts of this size.
DECODED_PIECE_BYTES = 65_536

# More than this is searched in a thread: a megabyte of escapes takes a second, in which no other request would be
# served. One thread for all calls, so that the event loop gets at least half of the time.
_MAX_SEARCHED_HERE = 16_384
_SEARCH = ThreadPoolExecutor(1, "token-vault search")


class AnswerCut(Exception):
    """An answer could not be passed on to its end.

    The caller's connection is closed, so that the answer does not look complete.
    """


class UnreadableEncoding(Exception):
    """A content encoding that cannot be searched for tokens."""


class Decoder:
    """Decompresses a body, in parts of limited size.

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
        # 32: the data's own header says whether it is gzip or zlib.
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if names else None

    def decode(self, piece: bytes) -> Iterator[bytes]:
        """Yield a piece, decompressed, in parts.

        Raises:
            AnswerCut: the piece is not encoded so.
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
        """Yield the last parts.

        Raises:
            AnswerCut: the body's end is missing.
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
    """Yield a body, decoded and without tokens.

    Args:
        pieces: of the provider's answer.
        max_bytes: of the decoded body.

    Raises:
        AnswerCut: it is too long, or not encoded as it says.
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
    """Call a search, in a thread if it takes long."""
    if searched_bytes <= _MAX_SEARCHED_HERE:
        return search(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_SEARCH, search, *arguments)
