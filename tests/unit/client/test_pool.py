"""Idle connections of a reader, and which are used no more."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from token_vault.bounded_connection import BoundedConnection
from token_vault.pool import MAX_IDLE_SECONDS, READ_ONLY_SECONDS, _IdleConnections, _is_lost


def connection(status: TransactionStatus = TransactionStatus.IDLE, *, age: float = 0.0) -> Any:
    """A connection as the pool sees it."""
    made_at = time.monotonic() - age
    return SimpleNamespace(pgconn=SimpleNamespace(transaction_status=status), made_at=made_at, closed=False)


def pool() -> _IdleConnections[Any]:
    return cast(_IdleConnections[Any], _IdleConnections[BoundedConnection]())


def test_the_connection_used_last_is_taken_first() -> None:
    """So the others become idle for long enough to be closed."""
    idle, older, newer = pool(), connection(), connection()
    assert idle.keep(older) == idle.keep(newer) == []
    assert (idle.take(), idle.take(), idle.take()) == (newer, older, None)


@pytest.mark.parametrize("status", [each for each in TransactionStatus if each is not TransactionStatus.IDLE])
def test_an_unusable_connection_is_not_kept(status: TransactionStatus) -> None:
    """One with an answer still to come would give it to the next read: another user's token."""
    idle, broken = pool(), connection(status)
    assert idle.keep(broken) == [broken]
    assert idle.take() is None


def test_what_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that nobody used for the time of the limit."""
    now = [0.0]
    monkeypatch.setattr("token_vault.pool.time", SimpleNamespace(monotonic=lambda: now[0]))
    idle, one, two, three = pool(), connection(), connection(), connection()
    idle.keep(one)
    now[0] = MAX_IDLE_SECONDS
    assert idle.keep(two) == []
    now[0] = MAX_IDLE_SECONDS + 1
    assert idle.keep(three) == [one]


def test_a_closed_pool_stays_closed() -> None:
    """Whatever was in use is closed when it comes back, also after a lost connection."""
    idle, used = pool(), connection()
    idle.empty(close=True)
    assert idle.empty() == []
    assert idle.keep(used) == [used]
    with pytest.raises(RuntimeError, match="closed"):
        idle.take()


def test_a_replica_s_connection_is_replaced_after_a_while() -> None:
    """It may lead to a server that was the primary; on a replica for good no connection is made anew each time."""
    error = psycopg.errors.ReadOnlySqlTransaction()
    assert not _is_lost(connection(), error)
    assert _is_lost(connection(age=READ_ONLY_SECONDS + 1), error)
