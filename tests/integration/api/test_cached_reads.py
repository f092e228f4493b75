"""Reads over HTTP from the API's memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.api_server import SETTINGS, ApiClient, serving_here
from tests.support.keys import ACCESS_KEY
from tests.support.readers import Rows, Sql
from tests.support.wait import until
from token_vault import Token
from token_vault.encryption_context import EncryptionContext
from token_vault.grant_key import GrantKey
from token_vault.keyring import KeyRing
from token_vault.secret import Secret
from worker.api.metrics import Metrics
from worker.api.service import open_service
from worker.settings import load

PATH = "/v1/users/oauth2%7Cu1/tokens/custom"


@pytest.fixture
def cached_settings(api_settings: None, environment: Any) -> None:
    """Serve from memory."""
    given = environment.read_text(encoding="utf-8")
    assert SETTINGS in given
    environment.write_text(given.replace("cache = false", "", 1), encoding="utf-8")


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


async def test_a_replaced_token_is_served_by_all_readers(
    cached_settings: None, vault: object, rows: Rows, sql: Sql
) -> None:
    """Who had a token replaced over this copy finds the new one with the next read."""
    await rows.add()
    async with open_service(load(), Metrics()) as service:
        reader = service.reader(None)

        async def read() -> Token:
            return await reader.user_token("oauth2|u1", "custom", wait=0)

        async with asyncio.timeout(10):
            while (old := await read()) is not await read():  # until it comes from memory
                pass
        ((end,),) = [row.values() for row in sql("UPDATE grants SET access_version = 7 RETURNING expires_at")]
        context = EncryptionContext.of_access_token(GrantKey("default", "custom", "oauth2|u1", "u1"), 7, end)
        sql(
            "UPDATE grants SET access_ciphertext = %s",
            KeyRing("access", [ACCESS_KEY]).encrypt(context, Secret("new")),
        )
        service.forget(old)
        assert (await read()).value == "new"


def _status(api: ApiClient, api_key: str) -> int:
    return int(api.call(f"{PATH}?wait=0", api_key).status_code)
