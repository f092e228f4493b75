"""Vault databases for tests, cloned from a migrated template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql as syntax

from token_vault.secret import Secret
from worker.embedded import locks, private_home
from worker.embedded.postgres import Postgres, major_version
from worker.embedded.server import Access
from worker.vault.db.migrate import migrate
from worker.vault.db.tables import Base

# Those that refer to others come first. No model describes the audit's.
_TABLES = [*(table.name for table in reversed(Base.metadata.sorted_tables)), "audit_records"]
_TEMPLATE = "vault_template"
# Each process that runs tests may hold about 50: workers, readers, and the tests' own.
_MAX_CONNECTIONS = 400

_HAS_ROWS = syntax.SQL("EXISTS (SELECT FROM {})")
_DELETE = syntax.SQL("DELETE FROM {}")
# Autovacuum may hold a table; it returns the space itself.
_VACUUM = syntax.SQL("VACUUM (SKIP_LOCKED) {}")
_END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s AND usename = user
"""
_RESTART_SEQUENCES = """
    SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false)
    FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname = 'public'
"""


class SharedPostgres(Postgres):
    """An embedded Postgres with connections for several test processes."""

    def arguments(self, access: Access) -> list[str]:
        """Return the arguments of postgres, with more connections.

        Without autovacuum: nobody but a superuser can drop a database that it works in, and emptied tables are
        vacuumed anyway.
        """
        options = f"max_connections={_MAX_CONNECTIONS}", "autovacuum=off"
        return [*super().arguments(access), *(part for option in options for part in ("-c", option))]

    def _files(self) -> list[str]:
        """Return the arguments of each start, with passwords that cost little: tests connect thousands of times."""
        cheap = ["-c", "scram_iterations=1"] if major_version(self.program()) >= 16 else []
        return [*super()._files(), *cheap]

    def _initialise(self, access: Access, alive: int) -> None:
        """Make the data folder; give Postgres 14 the rights in public that newer ones have."""
        super()._initialise(access, alive)
        if major_version(self.program()) < 15:
            owner = "ALTER SCHEMA public OWNER TO token_vault;\n"
            self._sql(self.data, f"{owner}REVOKE CREATE ON SCHEMA public FROM PUBLIC;\n", alive, "template1")


@contextmanager
def cloned_database(home: Path, name: str) -> Iterator[Secret]:
    """Give the URL of a new vault on this Postgres.

    Processes that name the same home share its server and its template; each clones its own database.
    """
    with SharedPostgres(private_home(home), durable=False).running() as (url, _):
        with locks.exclusive(home / "template.lock"):
            _make_template(url)
        _make(url, name, template=_TEMPLATE)
        yield at_database(url, name)


def at_database(url: Secret, name: str) -> Secret:
    """Return the URL of another database on the same server."""
    return Secret(urlsplit(url.reveal())._replace(path=f"/{name}").geturl())


@contextmanager
def emptied_tables(url: Secret) -> Iterator[Callable[[], None]]:
    """Give what empties all tables of a vault, as ``empty_tables`` does.

    It keeps its connection, whose backend knows the tables: a new one takes thirty times as long.
    """
    connection = _connect(url)

    def empty() -> None:
        nonlocal connection
        try:
            _empty(connection)
        except psycopg.OperationalError:  # a test has ended the connections, or Postgres
            connection.close()
            connection = _connect(url)
            _empty(connection)

    try:
        yield empty
    finally:
        connection.close()


def empty_tables(url: Secret) -> None:
    """Empty all tables of a vault; count its ids from 1 again."""
    with _connect(url) as connection:
        _empty(connection)


def end_connections(url: Secret) -> None:
    """End all connections to a database, and wait for their end."""
    with psycopg.connect(at_database(url, "postgres").reveal(), autocommit=True) as connection:
        connection.execute(_END_CONNECTIONS, (urlsplit(url.reveal()).path[1:],))


def _connect(url: Secret) -> psycopg.Connection[Any]:
    # Tests change tables, and what is prepared would not know.
    return psycopg.connect(url.reveal(), autocommit=True, prepare_threshold=None)


def _empty(connection: psycopg.Connection[Any]) -> None:
    """Delete all rows.

    TRUNCATE would make new files for each table and index, which takes a hundred times as long.
    """
    tables = [syntax.Identifier(name) for name in _TABLES]
    questions = syntax.SQL(", ").join(map(_HAS_ROWS.format, tables))
    answers = connection.execute(syntax.SQL("SELECT {}").format(questions)).fetchone() or ()
    filled = list(compress(tables, answers))
    if filled:
        connection.execute(syntax.SQL("; ").join(map(_DELETE.format, filled)))
        # Returns the files to length zero: rows lie in the order of their insertion, as in a new table.
        connection.execute(_VACUUM.format(syntax.SQL(", ").join(filled)))
    connection.execute(_RESTART_SEQUENCES)


def _make_template(url: Secret) -> None:
    """Make the template where nobody has yet."""
    with psycopg.connect(url.reveal()) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_TEMPLATE,)).fetchone()
    if found is None:
        _make(url, "vault_unmigrated", template="template1")
        migrate(at_database(url, "vault_unmigrated"))
        _run(
            url,
            syntax.SQL("ALTER DATABASE vault_unmigrated RENAME TO {}").format(syntax.Identifier(_TEMPLATE)),
        )


def _make(url: Secret, name: str, *, template: str) -> None:
    """Make a database; replace what a killed process has left."""
    database = syntax.Identifier(name)
    _run(url, syntax.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        # Copies the files: half the time of the default strategy, and nothing here has to be replayed. Postgres 14
        # knows no other way, and no word for it.
        way = "STRATEGY file_copy" if connection.info.server_version >= 150_000 else ""
        statement = syntax.SQL("CREATE DATABASE {} TEMPLATE {} {}")
        connection.execute(statement.format(database, syntax.Identifier(template), syntax.SQL(way)))


def _run(url: Secret, statement: syntax.Composed) -> None:
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def copied_by_template(url: Secret, name: str) -> Iterator[Secret]:
    """Give the URL of a copy that Postgres makes file by file; all connections to the first are ended."""
    source = urlsplit(url.reveal()).path[1:]
    server = at_database(url, "postgres")
    end_connections(url)
    _make(server, name, template=source)
    try:
        yield at_database(url, name)
    finally:
        _drop(server, name)


@contextmanager
def copied_by_dump(url: Secret, name: str) -> Iterator[Secret]:
    """Give the URL of a copy as a dump and its restore make it: the same rows, written anew."""
    server = at_database(url, "postgres")
    _make(server, name, template=_TEMPLATE)
    copy = at_database(url, name)
    try:
        with (
            psycopg.connect(url.reveal()) as source,
            psycopg.connect(copy.reveal(), autocommit=True) as target,
        ):
            for table in (each.name for each in Base.metadata.sorted_tables):
                with (
                    source.cursor().copy(f"COPY {table} TO STDOUT".encode()) as rows,
                    target.cursor().copy(f"COPY {table} FROM STDIN".encode()) as into,
                ):
                    for block in rows:
                        into.write(block)
        yield copy
    finally:
        _drop(server, name)


def _drop(url: Secret, name: str) -> None:
    _run(url, syntax.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(syntax.Identifier(name)))
