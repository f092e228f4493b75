"""What is wrong with roles of Postgres, as `doctor` says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.reader_roles import REMOVAL
from token_vault.secret import Secret
from worker.vault.db import roles
from worker.vault.db.migrate import migrate
from worker.vault.status import role_problems
from worker.vault.status.role_problems import RoleProblem, RoleProblemKind, find_role_problems
from worker.vault.vault import Vault

Sql = Callable[..., list[dict[str, Any]]]

CONSUMER = "INSERT INTO consumers (name, role, connections, users, admins, refresh) VALUES (%s, %s, '{*}', true, false, false)"


@pytest.fixture
def role(sql: Sql) -> Iterator[str]:
    """A consumer's role that has what it needs and no more."""
    sql("CREATE ROLE odd_consumer LOGIN CONNECTION LIMIT 60 IN ROLE vault_reader")
    sql(CONSUMER, "odd", "odd_consumer")
    yield "odd_consumer"
    for statement in REMOVAL:
        sql(statement.format("odd_consumer"))


async def problems_of(vault: Vault, *names: str) -> list[RoleProblem]:
    """The problems of these roles: the server has those of other tests."""
    return [each for each in await find_role_problems(vault) if each.role in names]


async def test_a_role_with_what_it_needs_is_no_problem(vault: Vault, role: str) -> None:
    """Nothing is said of a consumer's role that reads through the views alone."""
    assert await problems_of(vault, role, *roles.ROLES) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER ROLE odd_consumer CREATEROLE", "may make roles"),
        ("GRANT vault_worker TO odd_consumer", "is a member of vault_worker"),
        ("GRANT vault_operator TO odd_consumer", "is a member of vault_operator"),
        ("GRANT SELECT ON grants TO odd_consumer", "has rights on the table grants"),
        ("GRANT SELECT (access_ciphertext) ON grants TO odd_consumer", "has rights on the table grants"),
        ("GRANT CREATE ON SCHEMA public TO odd_consumer", "may create in the schema public"),
        ('GRANT CREATE ON DATABASE "{}" TO odd_consumer', "may create schemas"),
        ("GRANT DELETE ON leases TO odd_consumer", "has rights on the table leases"),
    ],
)
async def test_more_than_it_needs_is_named(
    vault: Vault, sql: Sql, role: str, statement: str, said: str
) -> None:
    """Each right beyond the views is named, with its role."""
    ((database,),) = (row.values() for row in sql("SELECT current_database()"))
    sql(statement.format(database))
    (found,) = await problems_of(vault, role)
    assert found.kind is RoleProblemKind.EXCESS
    assert said in str(found.detail)


async def test_what_is_missing_is_named(
    vault: Vault, sql: Sql, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role of the vault's that is not there, a consumer's, and one without a limit are named."""
    sql("ALTER ROLE odd_consumer CONNECTION LIMIT -1")
    sql(CONSUMER, "gone", 'no"body')
    monkeypatch.setattr(role_problems, "ROLES", (*roles.ROLES, "vault_absent"))
    assert await problems_of(vault, role, 'no"body', "vault_absent") == [
        RoleProblem(RoleProblemKind.ABSENT, 'no"body', "gone"),
        RoleProblem(RoleProblemKind.MISSING, "vault_absent", None),
        RoleProblem(RoleProblemKind.UNLIMITED, role, None),
    ]


async def test_an_open_schema_is_named(vault: Vault, sql: Sql, database_url: Secret) -> None:
    """Where everybody may create in the schema, as in Postgres 14, `migrate` prints what closes it."""
    assert await problems_of(vault, "PUBLIC") == []
    sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    try:
        assert await problems_of(vault, "PUBLIC") == [
            RoleProblem(RoleProblemKind.OPEN_SCHEMA, "PUBLIC", "public")
        ]
        assert migrate(database_url) == [
            "GRANT CREATE ON SCHEMA public TO token_vault",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        ]
    finally:
        sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
