"""Reads an item while the one before is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def read_ahead(items: AsyncIterator[T], *, allowed: Callable[[], bool]) -> AsyncGenerator[T, None]:
    """Yield items, with one asked for ahead where allowed.

    An error comes in its item's place, after the items before it were used. Close the iterator where it is left early,
    so that the call ahead ends.

    Args:
        items: what to iterate over.
        allowed: asked before each item is yielded.
    """
    ahead: asyncio.Future[T | None] | None = None
    try:
        while (item := await (ahead or anext(items, None))) is not None:
            ahead = asyncio.ensure_future(anext(items, None)) if allowed() else None
            yield item
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
