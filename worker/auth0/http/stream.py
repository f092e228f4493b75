"""Reads bodies in chunks, in the memory of one line."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator

import httpx

from worker.auth0.errors import Auth0Unreachable, MalformedAnswer
from worker.auth0.http.calls import describe_failure
from worker.auth0.http.responses import Endpoint

# Requests an unpacked body, as the raw bytes are read.
IDENTITY_ENCODING = {"Accept-Encoding": "identity"}

# Unpacked at a time, as kilobytes may become gigabytes.
_UNPACKED_BYTES = 2**20
# Of one user; Auth0 allows at most a megabyte in a profile.
MAX_LINE_BYTES = 4 * 2**20

ByteStream = AsyncGenerator[bytes, None]


async def read_chunks(response: httpx.Response, endpoint: Endpoint) -> ByteStream:
    """Yield a body as it arrives.

    Raises:
        Auth0Unreachable: the connection broke.
    """
    reason = None
    try:
        async for piece in response.aiter_raw():
            yield piece
    except (httpx.HTTPError, OSError) as error:
        reason = describe_failure(error)
    # Raised outside the except: those errors contain the request with its credentials, and must not be chained.
    if reason:
        raise Auth0Unreachable(f"{endpoint}: the answer broke off ({reason})")


async def unzip(zipped: ByteStream, endpoint: Endpoint) -> ByteStream:
    """Yield a gzip file's content; any other file as is.

    Raises:
        MalformedAnswer: the file is damaged or cut off.
    """
    head = b""
    while len(head) < 2 and (piece := await anext(zipped, None)) is not None:
        head += piece
    if not head.startswith(b"\x1f\x8b"):
        yield head
        async for piece in zipped:
            yield piece
        return
    data: bytes | None = head
    member, is_whole = zlib.decompressobj(wbits=31), False
    while data is not None:
        while data:
            try:
                plain = member.decompress(data, _UNPACKED_BYTES)
            except zlib.error:
                plain = None
            if plain is None:
                raise MalformedAnswer(f"{endpoint}: the file is damaged")
            yield plain
            data, is_whole = member.unconsumed_tail or member.unused_data, member.eof
            if is_whole:  # RFC 1952 section 2.2: another member may follow
                member = zlib.decompressobj(wbits=31)
        data = await anext(zipped, None)
    if not is_whole:
        raise MalformedAnswer(f"{endpoint}: the file is cut off")


async def split_lines(whole: ByteStream, endpoint: Endpoint) -> ByteStream:
    r"""Yield lines with their ``\n``, which the last may lack.

    Raises:
        MalformedAnswer: a line has no end.
    """
    held = b""
    async for piece in whole:
        *complete, held = (held + piece).split(b"\n")
        for line in complete:
            yield line + b"\n"
        if len(held) > MAX_LINE_BYTES:
            raise MalformedAnswer(f"{endpoint}: a line has no end")
    if held:
        yield held
