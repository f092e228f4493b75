"""Records of reads on their way to the audit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

import pytest

from token_vault import read_records
from token_vault.errors import TemporarilyUnavailable
from token_vault.postgres_address import PostgresAddress
from token_vault.read_records import IDLE_SECONDS, ReadRecord, ReadRecorder, to_json


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ReadRecorder:
    """One that holds two records and makes batches of two; no thread writes them."""
    monkeypatch.setattr(read_records, "MAX_PENDING", 3)
    monkeypatch.setattr(read_records, "MAX_BATCH", 2)
    return ReadRecorder(PostgresAddress.parse("postgresql://u@127.0.0.1:9/none"))


def users(recorder: ReadRecorder) -> list[str]:
    return [record.user_id for record in recorder._pending]


def test_a_record_has_its_age() -> None:
    """Seconds since the read, as the clocks of hosts differ; NULs, which Postgres does not store, are replaced."""
    now = time.monotonic()
    old, new = json.loads(
        to_json([ReadRecord("u\0", "c", "served", at=now - 7), ReadRecord("u", "c", "served")])
    )
    assert 7 <= old["age"] < 60
    assert new["age"] == 0
    assert old["user_id"] == "u\ufffd"


def test_too_many_records_cost_the_oldest(recorder: ReadRecorder) -> None:
    """While Postgres is away memory is bounded, and what is lost is counted."""
    for user in "abcde":
        recorder._queue(ReadRecord(user, "c", "served", reads=2))
    assert users(recorder) == ["c", "d", "e"]
    assert recorder._dropped == 4


def test_what_cannot_be_written_stays_in_order(
    recorder: ReadRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails is written with the next try, before what came later."""
    written: list[str] = []

    def fail(statement: str, values: Sequence[str]) -> list[tuple[object, ...]]:
        del statement, values
        raise TemporarilyUnavailable("away", 1)

    def write(statement: str, values: Sequence[str]) -> list[tuple[object, ...]]:
        del statement
        written.extend(each["user_id"] for each in json.loads(values[0]))
        return []

    for user in "abc":
        recorder._queue(ReadRecord(user, "c", "served"))
    monkeypatch.setattr(recorder._pool, "rows", fail)
    with pytest.raises(TemporarilyUnavailable):
        recorder._flush()
    assert users(recorder) == ["a", "b", "c"]
    assert not recorder._may_end(time.monotonic() - 2 * IDLE_SECONDS)  # the thread goes on for them
    monkeypatch.setattr(recorder._pool, "rows", write)
    assert recorder._flush() == 3
    assert written == ["a", "b", "c"]
    assert recorder._may_end(time.monotonic() - 2 * IDLE_SECONDS)


def test_a_forked_process_leaves_its_parent_s_records(recorder: ReadRecorder) -> None:
    """Its lock may be held without end, and the parent writes them."""
    recorder._process = os.getpid() + 1
    recorder.close_in_own_process()
    assert not recorder._closed
