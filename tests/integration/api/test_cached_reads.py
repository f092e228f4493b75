"""Reads over HTTP from the API's memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api_server import SETTINGS, ApiClient, serving_here
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from worker.api.metrics import Metrics
from worker.api.service import open_service
from worker.settings import load

PATH = "/v1/users/oauth2%7Cu1/tokens/custom"


@pytest.fixture
def cached_settings(api_settings: None, environment: Any) -> None:
    """Serve from memory."""
    given = environment.read_text(encoding="utf-8")
    assert SETTINGS in given
    environment.write_text(given.replace("[api]", "[api]\ncache = true", 1), encoding="utf-8")


async def test_reads_are_recorded_and_changes_are_seen(
    cached_settings: None, api_key: str, rows: Rows, sql: Sql
) -> None:
    """Each read from memory is in the audit, and a dead grant's token is served no more."""
    await rows.add()
    with serving_here(load()) as api:
        answers = [api.call(PATH, api_key).json()["access_token"] for _ in range(5)]
        assert answers == ["token-of-u1"] * 5
        until(
            lambda: len(sql("SELECT 1 FROM audit_records WHERE outcome = 'served'")) == 5, "all are recorded"
        )
        sql("UPDATE grants SET expires_at = now() - interval '1 minute'")
        until(lambda: _status(api, api_key) != 200, "the change is seen")
        rules = "UPDATE consumers SET connections = '{other}'"
        sql(rules)
        until(lambda: _status(api, api_key) == 403, "the rule is seen")


async def test_only_plain_reads_are_cached(cached_settings: None, vault: object) -> None:
    """Who has a token replaced reads the vault itself."""
    async with open_service(load(), Metrics()) as service:
        assert service.reader(None)._flow.cache is not None
        assert service.reader(None, refreshing=True)._flow.cache is None


def _status(api: ApiClient, api_key: str) -> int:
    return int(api.call(f"{PATH}?wait=0", api_key).status_code)
