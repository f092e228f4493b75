"""A transaction that was left open keeps dead rows, and claims read them: the operator is told."""

from __future__ import annotations

import pytest

from tests.support.reader_roles import NewRole, connect
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from worker.vault.status import dead_rows
from worker.vault.status.dead_rows import count_dead_rows
from worker.vault.vault import Vault


async def test_dead_rows_that_stay_are_counted(
    rows: Rows, vault: Vault, sql: Sql, new_role: NewRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While any role keeps a snapshot, vacuum removes nothing; the rows are many by number and by share."""
    await rows.add()
    with connect(new_role(), autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        backend = reader.info.backend_pid
        for _ in range(30):
            sql("UPDATE grants SET attempts = attempts + 1")
        sql("VACUUM grants")
        monkeypatch.setattr(dead_rows, "MIN_DEAD_ROWS", 20)
        assert await count_dead_rows(vault) >= 30
        monkeypatch.setattr(dead_rows, "MIN_DEAD_SHARE", 1000)
        assert await count_dead_rows(vault) == 0
    monkeypatch.undo()
    assert await count_dead_rows(vault) == 0
    monkeypatch.setattr(dead_rows, "MIN_DEAD_ROWS", 20)
    # Its backend ends a moment after the connection.
    until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend))
    sql("VACUUM grants")
    assert await count_dead_rows(vault) == 0
