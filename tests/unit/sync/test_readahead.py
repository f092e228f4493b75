"""One item is asked for while the one before is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sync.readahead import read_ahead


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
