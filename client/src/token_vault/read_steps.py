"""The steps of a read that readers perform."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from token_vault.read_records import ReadRecord
from token_vault.token import Token


class Query(NamedTuple):
    """Run a statement; its rows are sent back."""

    statement: str
    values: Sequence[object]


class NoteRead(NamedTuple):
    """Note a read for the workers, without waiting."""

    grant_id: int


class Listen(NamedTuple):
    """Listen for wakeups of a grant until the flow ends.

    The wakeup to wait for is sent back.

    Attributes:
        seconds: how long to wait for the listening connection.
    """

    grant_id: int
    seconds: float


class Wait(NamedTuple):
    """Wait for the wakeup that ``Listen`` gave."""

    wakeup: Any
    seconds: float


class RecordRead(NamedTuple):
    """Record the read for the audit.

    An error is thrown in if the read must not happen unrecorded.
    """

    record: ReadRecord


Step = Query | NoteRead | Listen | Wait | RecordRead
Flow = Generator[Step, Any, Token]
