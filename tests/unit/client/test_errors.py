"""Errors that cross from one process into another."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest
from celery import Celery

from token_vault.errors import (
    ConfigurationError,
    ReauthorizationRequired,
    TemporarilyUnavailable,
    TokenExpired,
    VaultError,
)
from worker.auth0.errors import Auth0RateLimited, Auth0Refused, MissingScope

EACH = [
    ReauthorizationRequired("invalid_grant", datetime(2026, 1, 31, tzinfo=UTC)),
    ReauthorizationRequired("lost_in_rotation", None, "sign in again"),
    TemporarilyUnavailable("not now", 7.5),
    TokenExpired("it has ended"),
    ConfigurationError("set REDIS_URL"),
    MissingScope(["read:users"], "nothing is synced"),
    Auth0RateLimited("too many", retry_after=3, code="too_many_requests"),
    Auth0Refused("no", status=403, code="insufficient_scope"),
]


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_pickled_whole(error: VaultError, protocol: int) -> None:
    """A pool of processes hands on the error that its child met, with all it says; one that cannot be read breaks it."""
    for found in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(found) is type(error)
        assert (str(found), vars(found)) == (str(error), vars(error))


def test_a_task_that_cannot_reach_postgres_tells_its_caller_so() -> None:
    """An app that has this package meets the task's own error, and when to ask again."""
    backend = Celery(set_as_current=False, broker="memory://", backend="cache+memory://").backend
    stored = backend.prepare_exception(TemporarilyUnavailable("Postgres does not answer", 5.0), "json")
    found = backend.exception_to_python(backend.decode(backend.encode(stored)))
    assert type(found) is TemporarilyUnavailable
    assert (str(found), found.retry_after) == ("Postgres does not answer", 5.0)
