"""A database that fails, as callers are told of it."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from token_vault.errors import ConfigurationError, TemporarilyUnavailable
from worker.api.problems import of_error
from worker.vault.db.errors import explained


async def test_a_busy_pool_is_no_failure_of_the_server() -> None:
    """Who gets no connection in time is told to come again."""
    with pytest.raises(TemporarilyUnavailable):
        async with explained():
            raise PoolTimeout


def test_callers_learn_nothing_of_the_operators_servers_and_settings() -> None:
    """Where Postgres is, and which setting is wrong, is in the log alone."""
    away = TemporarilyUnavailable("Postgres does not answer", 5)
    away.server = "10.0.0.5:5432"
    wrong = ConfigurationError("VAULT_ACCESS_KEYS has no key of 10.0.0.5:5432")
    for error in (away, wrong):
        problem = of_error(error)
        assert problem.type.code == "temporarily-unavailable"
        assert "10.0.0.5" not in problem.detail
        assert "VAULT_" not in problem.detail
