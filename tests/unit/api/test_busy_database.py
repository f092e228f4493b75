"""A database whose connections are all in use."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.errors import TemporarilyUnavailable
from worker.vault.db.errors import explained


async def test_a_busy_pool_is_no_failure_of_the_server() -> None:
    """Who gets no connection in time is told to come again."""
    with pytest.raises(TemporarilyUnavailable):
        async with explained():
            raise PoolTimeout
