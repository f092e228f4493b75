"""Statements that readers run without a cursor."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from token_vault.bounded_connection import BoundedConnection
from token_vault.connect import connect, connect_async
from token_vault.database_errors import AnswerTimeout
from token_vault.postgres_address import PostgresAddress
from token_vault.secret import Secret

STATEMENT = "SELECT %s::text, 7::bigint, NULL::text, now(), ARRAY[%s]::text[], 'x'::bytea, true"


@pytest.fixture
def connection(database_url: Secret) -> Iterator[BoundedConnection]:
    with connect(PostgresAddress.parse(database_url), "test", answer_seconds=10, autocommit=True) as opened:
        yield opened


def test_rows_are_those_of_a_cursor(connection: BoundedConnection) -> None:
    """A prepared statement brings what a cursor brings, in the same types, once and again."""
    with connection.transaction():  # now() stays the same
        by_cursor = connection.execute(STATEMENT, ("ü", "b"), binary=True).fetchall()
        assert connection.fetch(STATEMENT, ("ü", "b")) == by_cursor
        assert connection.fetch(STATEMENT, ("ü", "b")) == by_cursor
    assert connection.fetch("SELECT %s::text WHERE false", ("a",)) == []
    assert connection.fetch("SELECT %s::text FROM generate_series(1, 2)", ("a",)) == [("a",), ("a",)]


async def test_rows_come_to_asyncio_too(database_url: Secret) -> None:
    """A connection for asyncio brings the same rows."""
    async with await connect_async(PostgresAddress.parse(database_url), "test", autocommit=True) as opened:
        assert await opened.fetch("SELECT %s::text, 7::bigint", ("a",)) == [("a", 7)]


def test_other_values_than_text_are_left_to_a_cursor(connection: BoundedConnection) -> None:
    """Numbers and missing values have a type of their own each time, and come back as they went."""
    assert connection.fetch("SELECT %s::bigint, %s::float8, %s::text", (7, None, "a")) == [(7, None, "a")]
    assert connection.fetch("SELECT 7::bigint", ()) == [(7,)]


def test_a_name_does_not_end_at_a_null(connection: BoundedConnection) -> None:
    """A text with a null is refused: libpq would send what stands before it, another user's id perhaps."""
    with pytest.raises(psycopg.DataError):
        connection.fetch("SELECT %s::text", ("auth0|5\0x",))
    with pytest.raises(UnicodeEncodeError):
        connection.fetch("SELECT %s::text", ("\ud800",))
    assert connection.fetch("SELECT %s::text", ("auth0|5",)) == [("auth0|5",)]


def test_a_lost_statement_is_prepared_anew(connection: BoundedConnection) -> None:
    """Where a session has forgotten a statement, or its columns have changed, one error is all that comes of it."""
    connection.execute("CREATE TEMP VIEW seen AS SELECT 'a'::text AS name")
    statement = "SELECT * FROM seen WHERE name <> %s"
    assert connection.fetch(statement, ("b",)) == [("a",)]
    for change in ("DEALLOCATE ALL", "CREATE OR REPLACE TEMP VIEW seen AS SELECT 'a'::text AS name, 1 AS n"):
        connection.execute(change)
        with pytest.raises(psycopg.Error):
            connection.fetch(statement, ("b",))
        assert connection.fetch(statement, ("b",))[0][0] == "a"


def test_an_error_is_the_servers_own(connection: BoundedConnection) -> None:
    """A statement that fails raises the error of its code, and the connection is good for the next one."""
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.fetch("SELECT %s::text FROM nowhere", ("a",))
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        connection.fetch("SELECT %s::integer", ("a",))
    assert connection.fetch("SELECT %s::text", ("a",)) == [("a",)]


def test_an_answer_that_does_not_come_is_not_waited_for(connection: BoundedConnection) -> None:
    """The connection's bound holds for prepared statements too."""
    connection.answer_seconds = 0.05
    with pytest.raises(AnswerTimeout):
        connection.fetch("SELECT pg_sleep(20), %s::text", ("a",))
    connection.close()  # the statement is still under way
