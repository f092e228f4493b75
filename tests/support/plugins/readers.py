"""Fixtures: what readers read, and the roles they read as."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.reader_roles import NewRole, reader_roles
from tests.support.readers import Rows, Sql
from token_vault.secret import Secret
from worker.vault.vault import Vault


@pytest.fixture
def rows(vault: Vault, sql: Sql) -> Rows:
    """Writes what there is to read."""
    return Rows(vault, sql)


@pytest.fixture
def new_role(database_url: Secret) -> Iterator[NewRole]:
    """Makes consumers' roles."""
    with reader_roles(database_url) as make:
        yield make
