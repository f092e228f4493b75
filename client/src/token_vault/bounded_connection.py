"""Connections to Postgres that bound the wait for answers.

A pooler that is paused, or a host that is gone behind one, acknowledges every byte and never answers: neither libpq
nor the kernel would give up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from token_vault.database_errors import AnswerTimeout
from token_vault.prepared_statements import PreparedStatements, Rows

R = TypeVar("R")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection for threads that gives up waiting.

    Attributes:
        answer_seconds: how long to wait for an answer; None waits without limit.
        made_at: when, by the monotonic clock.
        is_pooled: whether it leads to a pooler, which may send each transaction to another session.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.answer_seconds: float | None = None
        self.made_at = time.monotonic()
        self.is_pooled = False
        self._statements = PreparedStatements(self)

    def fetch(self, statement: str, values: Sequence[object]) -> Rows:
        """Run a statement, and return its rows."""
        if self.is_pooled or not self._statements.accepts(values):
            return self.execute(statement, values, prepare=True, binary=True).fetchall()
        return self.wait(self._statements.run(statement, values))

    def wait(self, gen: PQGen[R], *arguments: Any, **named: Any) -> R:
        """Wait for the server; ``AnswerTimeout`` when the time is up."""
        return super().wait(_bounded(gen, self.answer_seconds), *arguments, **named)


class AsyncBoundedConnection(psycopg.AsyncConnection[Any]):
    """The same for asyncio; attributes as ``BoundedConnection``."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.answer_seconds: float | None = None
        self.made_at = time.monotonic()
        self.is_pooled = False
        self._statements = PreparedStatements(self)

    async def fetch(self, statement: str, values: Sequence[object]) -> Rows:
        """Run a statement, and return its rows."""
        if self.is_pooled or not self._statements.accepts(values):
            cursor = await self.execute(statement, values, prepare=True, binary=True)
            return await cursor.fetchall()
        return await self.wait(self._statements.run(statement, values))

    async def wait(self, gen: PQGen[R], *arguments: Any, **named: Any) -> R:
        """Wait for the server; ``AnswerTimeout`` when the time is up."""
        return await super().wait(_bounded(gen, self.answer_seconds), *arguments, **named)


def _bounded(gen: PQGen[R], seconds: float | None) -> PQGen[R]:
    """End the driver's wait when the time is up.

    While nothing arrives, psycopg resumes the generator ten times a second, so the end is noticed within 0.1 s.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and deadline is not None and time.monotonic() > deadline:
                raise AnswerTimeout
            wanted = gen.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result
