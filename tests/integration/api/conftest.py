"""Fixtures: a served vault, consumers, and rows to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulators.client import Emulation
from tests.support.api_server import SETTINGS, ApiClient, serving
from tests.support.readers import Rows, Sql
from worker.consumer_rules import hash_api_key, make_api_key
from worker.vault.vault import Vault

CLIENT_ID = "calendar-app"


@pytest.fixture
def rows(vault: Vault, sql: Sql) -> Rows:
    """Writes what there is to read."""
    return Rows(vault, sql)


@pytest.fixture
def api_key(sql: Sql) -> str:
    """The key of a consumer ``calendar``, which is a machine application too."""
    key = make_api_key()
    sql(
        "INSERT INTO consumers (name, client_id, api_key_hash, connections, users, admins, refresh)"
        " VALUES ('calendar', %s, %s, '{custom,goo*}', true, false, false)",
        CLIENT_ID, hash_api_key(key),
    )  # fmt: skip
    return key


@pytest.fixture
def api(
    environment: Path, tenant: Emulation, vault: Vault, api_key: str, tmp_path: Path
) -> Iterator[ApiClient]:
    """The served vault, with one consumer."""
    environment.write_text(f"{SETTINGS}\n{tenant.config_toml()}", encoding="utf-8")
    with serving(tmp_path) as client:
        yield client
