"""One item is asked for while the one before is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sync import readahead
from worker.sync.readahead import read_ahead, start_each


@given(st.lists(st.booleans(), max_size=8))
def test_all_items_come_and_one_at_most_is_ahead(allowed: list[bool]) -> None:
    """Whenever it is allowed, and only then, one further item is made while an item is used."""

    async def scenario() -> None:
        made = 0

        async def items() -> AsyncGenerator[int, None]:
            nonlocal made
            for number in range(len(allowed)):
                made = number + 1
                yield number

        may = iter(allowed)
        used = []
        async for item in read_ahead(items(), allowed=lambda: next(may)):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert made == min(item + 1 + allowed[item], len(allowed))
            used.append(item)
        assert used == list(range(len(allowed)))

    asyncio.run(scenario())


async def test_an_error_comes_in_its_items_place() -> None:
    """What was read before an error is used first."""

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        raise OSError("planted")

    used = []

    async def use() -> None:
        async for item in read_ahead(items(), allowed=lambda: True):
            await asyncio.sleep(0)
            used.append(item)

    with pytest.raises(OSError, match="planted"):
        await use()
    assert used == [1]


async def test_leaving_ends_the_call_ahead() -> None:
    """Nothing is asked for any more when the iterator is closed."""
    ended = asyncio.Event()

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with aclosing(read_ahead(items(), allowed=lambda: True)) as ahead:
        async for _ in ahead:
            await asyncio.sleep(0)
            break
    assert ended.is_set()


async def test_work_begins_when_its_item_comes() -> None:
    """Each item comes with its own task, and the work on all of them runs at a time."""
    go_on = asyncio.Event()

    async def items() -> AsyncGenerator[int, None]:
        for number in range(3):
            yield number

    async def work(number: int) -> int:
        await go_on.wait()
        return number * 10

    started = [(item, task) async for item, task in _until(start_each(items(), work), 3, go_on)]
    assert [(item, await task) for item, task in started] == [(0, 0), (1, 10), (2, 20)]


async def _until(
    pairs: AsyncGenerator[tuple[int, asyncio.Task[int]], None], count: int, event: asyncio.Event
) -> AsyncGenerator[tuple[int, asyncio.Task[int]], None]:
    """Set the event when so many have come."""
    seen = 0
    async for pair in pairs:
        seen += 1
        if seen == count:
            event.set()
        yield pair


async def test_an_error_comes_after_the_work_before_it() -> None:
    """What fails to be read spoils nothing that is being worked on."""
    ended = list[int]()

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        raise OSError("planted")

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append(number)

    async def use() -> None:
        async for _ in start_each(items(), work):
            pass

    with pytest.raises(OSError, match="planted"):
        await use()
    assert ended == [1]


@pytest.mark.parametrize("ends_in_time", [True, False])
async def test_leaving_ends_the_work(monkeypatch: pytest.MonkeyPatch, ends_in_time: bool) -> None:
    """Work under way is given a moment to end, and is cancelled then."""
    monkeypatch.setattr(readahead, "END_SECONDS", 60.0 if ends_in_time else 0.0)
    begun, ended = asyncio.Event(), list[str]()

    async def items() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.Event().wait()

    async def work(number: int) -> None:
        try:
            begun.set()
            for _ in range(5):
                await asyncio.sleep(0)
            await (asyncio.sleep(0) if ends_in_time else asyncio.Event().wait())
            ended.append("whole")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with aclosing(start_each(items(), work)) as started:
        async for _ in started:
            await begun.wait()
            break
    assert ended == ["whole" if ends_in_time else "cancelled"]
