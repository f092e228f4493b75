"""Works on the next items while the last is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# A page that is being stored takes some milliseconds. Cancelled, it could be stored and not counted.
END_SECONDS = 5.0


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


async def start_each(
    items: AsyncIterator[T], work: Callable[[T], Coroutine[Any, Any, R]]
) -> AsyncGenerator[tuple[T, asyncio.Task[R]], None]:
    """Yield items, each with a task that works on it.

    An error in ``items`` is raised when the tasks before it have ended. Close the iterator if you leave it early: tasks
    still running are given a moment to end, and are then cancelled.

    Args:
        items: what to iterate over.
        work: makes something of an item.
    """
    started = set[asyncio.Task[R]]()
    try:
        async for item in items:
            started = {task for task in started if not _has_succeeded(task)}
            task = asyncio.create_task(work(item))
            started.add(task)
            yield item, task
    except (GeneratorExit, asyncio.CancelledError):
        if started:
            _, late = await asyncio.wait(started, timeout=END_SECONDS)
            for task in late:
                task.cancel()
        raise
    finally:
        await asyncio.gather(*started, return_exceptions=True)


def _has_succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
