"""The table of consumers as a running API knows it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.readers import Sql
from token_vault.errors import TemporarilyUnavailable
from worker.api.consumers import Consumers
from worker.vault.vault import Vault


async def test_the_first_callers_share_one_read(vault: Vault, api_key: str, sql: Sql) -> None:
    """Who comes while the table is read waits for it; a removed consumer is gone within seconds."""
    now = 1000.0
    consumers = Consumers(vault, lambda: now)
    await asyncio.gather(*(consumers.load() for _ in range(20)))
    assert consumers.of_api_key(api_key)
    (client_id,) = consumers.client_ids
    assert consumers.of_client(client_id)
    sql("DELETE FROM consumers")
    now += 6
    await consumers.load()
    assert consumers.of_api_key(api_key) is None
    assert consumers.of_client(client_id) is None


async def test_what_is_known_holds_for_a_minute_while_the_table_cannot_be_read(
    vault: Vault, api_key: str, sql: Sql
) -> None:
    """No consumer is refused for a short outage of Postgres, and none is believed after a long one."""
    now = [1000.0]
    consumers = Consumers(vault, lambda: now[0])
    await consumers.load()
    sql("ALTER TABLE consumers RENAME TO away")
    try:
        for later in (6, 60):
            now[0] = 1000.0 + later
            await consumers.load()
            assert consumers.of_api_key(api_key)
        now[0] += 1
        with pytest.raises(TemporarilyUnavailable):
            await consumers.load()
    finally:
        sql("ALTER TABLE away RENAME TO consumers")
