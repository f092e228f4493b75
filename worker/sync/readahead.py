"""Reads the next item while the last one is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def read_ahead(items: AsyncIterator[T], *, allowed: Callable[[], bool]) -> AsyncGenerator[T, None]:
    """Yield items, and read one item ahead where allowed.

    An error is raised in its item's place, after the items before it. Close the iterator if you leave it early, so that
    the call ahead ends.

    Args:
        items: what to iterate over.
        allowed: called before each item is yielded; whether the next may be read ahead.
    """
    ahead: asyncio.Future[T | None] | None = None  # the next item, requested before it is needed
    try:
        while (item := await (ahead or anext(items, None))) is not None:
            ahead = asyncio.ensure_future(anext(items, None)) if allowed() else None
            yield item
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
