"""What a consumer's role sees and may ask for: the rows that its rules name, and no others."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.support.reader_roles import NewRole, connect
from tests.support.readers import Rows, Sql, pending
from token_vault.errors import TemporarilyUnavailable
from token_vault.grant_key import GrantKey
from token_vault.read_model import REQUEST_REFRESH
from token_vault.secret import Secret
from worker.consumer_rules import ConsumerRules
from worker.vault.consumers import consumers
from worker.vault.consumers.consumers import Applied
from worker.vault.vault import Vault

KEEP = timedelta(days=400)
VIEWS = ("served_tokens", "token_status")


def role_of(url: Secret) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(url.reveal())["user"])


def apply(database_url: Secret, *rules: ConsumerRules, keep_inherited: bool = False) -> Applied:
    return consumers.apply(database_url, rules, keep=KEEP, keep_inherited=keep_inherited)


def seen(connection: psycopg.Connection[Any], view: str) -> set[tuple[str, str, str]]:
    """The tenants, connections and users of the rows that a view shows."""
    found = connection.execute(f"SELECT tenant, connection, coalesce(user_id, '') FROM {view}".encode())
    return set(found.fetchall())


def test_the_views_show_what_the_rules_say(new_role: NewRole, sql: Sql) -> None:
    """For any rules and any grants, the rows that a consumer's role sees are those that ``may_read`` names."""
    chance = random.Random(12)

    def word(letters: str, most: int) -> str:
        return "".join(chance.choices(letters, k=chance.randint(1, most)))

    names = {word("ab%_*\\?[", 5) for _ in range(60)} | {"a\nb", "ab", "AB"}
    keys = {
        GrantKey(chance.choice(("t", "u")), name, *chance.choice((("", ""), ("x|1", "1"))))
        for name in names
        for _ in range(2)
    }
    for tenant, name in {(key.tenant, key.connection) for key in keys}:
        sql("INSERT INTO connections (tenant, name, strategy) VALUES (%s, %s, 'oauth2')", tenant, name)
    for key in keys:
        sql(
            "INSERT INTO grants (tenant, connection, user_id, provider_user_id, state, obtained_from)"
            " VALUES (%s, %s, %s, %s, 'active', 'auth0')",
            key.tenant, key.connection, key.user_id, key.provider_user_id,
        )  # fmt: skip
    shown = 0
    with connect(url := new_role()) as connection:
        for _ in range(300):
            rules = ConsumerRules(
                role_of(url),
                tuple(word("ab%_*\\?[", 4) for _ in range(chance.randint(1, 2))),
                tenants=chance.choice((None, (), ("t",), ("t", "u"))),
                users=chance.random() < 0.7,
                admins=chance.random() < 0.5,
            )
            sql(
                "UPDATE consumers SET connections = %s, tenants = %s, users = %s, admins = %s",
                list(rules.connections), None if rules.tenants is None else list(rules.tenants), rules.users, rules.admins,
            )  # fmt: skip
            expected = {(key.tenant, key.connection, key.user_id) for key in keys if rules.may_read(key)}
            shown += len(expected)
            for view in VIEWS:
                assert seen(connection, view) == expected, (view, rules)
    assert shown > 500


async def test_a_role_that_is_no_consumer_sees_nothing(rows: Rows, new_role: NewRole, sql: Sql) -> None:
    """Privileges on the views alone show no row; a consumer of another role gives none either."""
    grant_id = await rows.add()
    sql(
        "INSERT INTO resource_tokens (grant_id, resource, scope, refused_at) VALUES (%s, 'r', '', now())",
        grant_id,
    )
    new_role()
    with connect(url := new_role()) as connection:
        sql("DELETE FROM consumers WHERE role = %s", role_of(url))
        for view in VIEWS:
            assert seen(connection, view) == set()
        assert connection.execute("SELECT resource FROM served_resource_tokens").fetchall() == []
        connection.execute(REQUEST_REFRESH, (grant_id, 60, 60))
        assert pending(sql) == []


async def test_a_condition_sees_no_hidden_row(rows: Rows, new_role: NewRole) -> None:
    """A function in a query, however cheap it says it is, is called for rows that the consumer may read alone."""
    await rows.add()
    await rows.add("oauth2|u2", "secret", subject="u2")
    with connect(new_role(connections=["custom"])) as connection:
        told: list[str] = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
            " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        for view in VIEWS:
            told.clear()
            connection.execute(f"SELECT count(*) FROM {view} WHERE pg_temp.tell(connection)".encode())
            assert told == ["custom"], view


async def test_what_it_may_not_read_it_may_not_refresh(rows: Rows, new_role: NewRole, sql: Sql) -> None:
    """A request and a report for a grant that is hidden write nothing."""
    visible, hidden = await rows.add(), await rows.add("oauth2|u2", "secret", subject="u2")
    with connect(new_role(connections=["custom"])) as connection:
        connection.execute(REQUEST_REFRESH, (hidden, 60, 60))
        version = sql("SELECT access_version AS v FROM grants WHERE id = %s", hidden)[0]["v"]
        connection.execute("SELECT report_rejected(%s, %s)", (hidden, version))
        assert pending(sql) == []
        connection.execute(REQUEST_REFRESH, (visible, 60, 60))
        assert [row["grant_id"] for row in pending(sql)] == [visible]


@pytest.mark.parametrize(("refresh", "expected"), [(False, 1800), (True, 315_360_000)])
async def test_without_the_right_no_good_token_is_replaced(
    rows: Rows, new_role: NewRole, sql: Sql, refresh: bool, expected: float
) -> None:
    """A consumer without ``refresh`` has a token replaced in the second half of its life, however much it asks for."""
    grant_id = await rows.add(life=3600)
    with connect(new_role(refresh=refresh)) as connection:
        for ttl in (1e12, 60, 1e12):
            connection.execute(REQUEST_REFRESH, (grant_id, ttl, 60))
    (row,) = pending(sql)
    assert row["min_ttl"] == pytest.approx(expected, abs=1)


def test_the_table_is_what_the_file_says(database_url: Secret) -> None:
    """Consumers are added, changed and removed; one identity may go from one to another at once."""
    first, second = ConsumerRules("a", ("x",), role="r", client_id="c"), ConsumerRules("b", ("*",), role="s")
    assert apply(database_url, first, second)[:3] == (("a", "b"), (), ())
    assert consumers.list_consumers(database_url) == [first, second]
    assert apply(database_url, first, second)[:3] == ((), (), ())
    swapped = replace(first, role="s", tenants=(), audit="strict"), replace(second, role="r")
    assert apply(database_url, *swapped)[:3] == ((), ("a", "b"), ())
    assert consumers.list_consumers(database_url) == list(swapped)
    assert apply(database_url, swapped[0])[:3] == ((), (), ("b",))


def test_nobody_waits_for_an_open_transaction(
    database_url: Secret, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has changed consumers and does not commit holds up no start: that it is locked is said."""
    monkeypatch.setattr(consumers, "_WAIT", text(consumers._WAIT.text.replace("10s", "100ms")))
    with psycopg.connect(database_url.reveal()) as operator:
        operator.execute("DELETE FROM consumers")
        with pytest.raises(TemporarilyUnavailable, match="a lock that another connection holds"):
            apply(database_url, ConsumerRules("a", ("x",), role="r"))
        operator.execute("SELECT FROM audit_state FOR UPDATE")
        operator.execute("COMMIT; BEGIN; SELECT FROM audit_state FOR UPDATE")
        with pytest.raises(TemporarilyUnavailable, match="a lock that another connection holds"):
            consumers.apply(database_url, [], keep=timedelta(days=7), keep_inherited=False)


def test_inherited_consumers_stay_until_they_are_named(database_url: Secret, sql: Sql) -> None:
    """``migrate`` keeps the roles of earlier versions; a consumer of the same role, or ``apply``, ends them."""
    for role in ("old", "older"):
        sql(
            "INSERT INTO consumers (name, role, connections, users, admins, refresh, inherited)"
            " VALUES (%s, %s, '{*}', true, true, true, true)", role, role,
        )  # fmt: skip
    calendar = ConsumerRules("calendar", ("x",), role="old")
    assert apply(database_url, calendar, keep_inherited=True).removed == ("old",)
    assert [each.name for each in consumers.list_consumers(database_url)] == ["calendar", "older"]
    assert apply(database_url, calendar).removed == ("older",)


async def test_roles_that_cannot_read_are_told(database_url: Secret, new_role: NewRole, vault: Vault) -> None:
    """Whoever applies consumers is given the statements that their roles still need."""
    ready = role_of(new_role())
    made = apply(
        database_url, ConsumerRules("a", ("*",), role=ready), ConsumerRules("b", ("*",), role='no"body')
    )
    assert made.statements[0] == (
        'CREATE ROLE "no""body" LOGIN PASSWORD \'…\' CONNECTION LIMIT 60 IN ROLE vault_reader;'
    )
    assert [each.name for each in await consumers.load_consumers(vault)] == ["a", "b"]


def test_consumers_are_given_limits(database_url: Secret, sql: Sql) -> None:
    """The statements that are printed make a role that opens few connections and waits for little."""
    made = apply(database_url, ConsumerRules("odd", role="limited", connections=("*",)))
    try:
        for statement in made.statements:
            sql(statement)
        (found,) = sql("SELECT rolconnlimit, rolconfig FROM pg_roles WHERE rolname = 'limited'")
        assert found["rolconnlimit"] == consumers.READER_CONNECTIONS
        assert found["rolconfig"] == [f"{name}={value}" for name, value in consumers.READER_LIMITS.items()]
        again = apply(database_url, ConsumerRules("odd", role="limited", connections=("*",)))
        assert again.statements == ()
    finally:
        sql("DROP ROLE IF EXISTS limited")
