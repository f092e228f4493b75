"""The body of a caller's request: limited, repeatable if short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect

# A longer body is not kept in memory, so its request cannot be sent again with another token.
MAX_REPEATABLE_BYTES = 262_144


class BodyRefused(Exception):
    """The body is too long, or cannot be read."""


class BodyCut(BodyRefused):
    """The body breaks off."""


class BodyTimeout(BodyRefused):
    """The body does not arrive in time."""


class RequestBody:
    """A body that is read while it is forwarded.

    Args:
        pieces: as the server receives them.
        max_bytes: of the whole body.
        idle_seconds: the longest time between two pieces.
        ends_at: when the whole body has to be read, by the event loop's clock.
        is_empty: whether the request has no body, so that none is waited for.

    Attributes:
        is_complete: whether the whole body was read.
        refused: why it could not be read.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        max_bytes: int,
        idle_seconds: float,
        ends_at: float,
        is_empty: bool = False,
    ) -> None:
        self._pieces = pieces
        self._max_bytes = max_bytes
        self._idle_seconds = idle_seconds
        self._ends_at = ends_at
        self._begun = b""
        self._length = 0
        self.is_complete = is_empty
        # Kept, as the HTTP client that reads the body raises an error of its own instead.
        self.refused: BodyRefused | None = None

    async def begin(self) -> bytes:
        """Read a short body whole, a long one in part.

        Raises:
            BodyRefused: it is too long, breaks off, or does not arrive in time.
        """
        parts = []
        while not self.is_complete and self._length <= MAX_REPEATABLE_BYTES:
            parts.append(await self._next())
        self._begun = b"".join(parts)
        return self._begun

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the whole body, once."""
        begun, self._begun = self._begun, b""
        yield begun
        del begun
        while not self.is_complete:
            if piece := await self._next():
                yield piece

    async def _next(self) -> bytes:
        idle_until = asyncio.get_running_loop().time() + self._idle_seconds
        try:
            async with asyncio.timeout_at(min(idle_until, self._ends_at)):
                piece = await anext(self._pieces, None)
        except TimeoutError:
            raise self._refuse(BodyTimeout("the body did not come in time")) from None
        except ClientDisconnect:
            raise self._refuse(BodyCut("the body broke off")) from None
        if piece is None:
            self.is_complete = True
            return b""
        self._length += len(piece)
        if self._length > self._max_bytes:
            raise self._refuse(BodyRefused(f"the body has more than {self._max_bytes} bytes"))
        return piece

    def _refuse(self, refused: BodyRefused) -> BodyRefused:
        self.refused = refused
        return refused
