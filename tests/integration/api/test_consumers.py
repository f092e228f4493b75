"""The table of consumers as a running API knows it."""

from __future__ import annotations

import asyncio

from tests.support.readers import Sql
from worker.api.consumers import Consumers
from worker.vault.vault import Vault


async def test_the_first_callers_share_one_read(vault: Vault, api_key: str, sql: Sql) -> None:
    """Who comes while the table is read waits for it; a removed consumer is gone within seconds."""
    now = 1000.0
    consumers = Consumers(vault, lambda: now)
    await asyncio.gather(*(consumers.load() for _ in range(20)))
    assert consumers.of_api_key(api_key)
    sql("DELETE FROM consumers")
    now += 6
    await consumers.load()
    assert consumers.of_api_key(api_key) is None
