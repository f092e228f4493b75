"""Writes consumers to their table, and reads them.

It needs no key ring, so a role without keys can do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from token_vault.secret import Secret
from worker.consumer_rules import ConsumerRules
from worker.vault.db.engine import create_command_engine
from worker.vault.db.errors import explain
from worker.vault.db.sql import load
from worker.vault.vault import Database

_COLUMNS = tuple(field.name for field in fields(ConsumerRules))
_SELECT = text(f"SELECT {', '.join(_COLUMNS)} FROM consumers ORDER BY name")  # noqa: S608  # names of fields
_INSERT, _UNREADY_ROLES = load(__file__, "insert"), load(__file__, "unready_roles")
# The lock makes other writers wait, not readers of the table. Without the timeout, a session that an operator left in a
# transaction would block `migrate`, and with it the start of all services.
_WAIT = text("SET LOCAL lock_timeout = '10s'")
_LOCK = text("LOCK TABLE consumers IN SHARE ROW EXCLUSIVE MODE")
_DELETE = text("DELETE FROM consumers WHERE name = ANY (:names)")
_SET_KEEP = text("UPDATE audit_state SET keep = :keep WHERE keep <> :keep")

# The connection limit of a consumer's role, as all programs share the server's connections: five processes of twelve.
READER_CONNECTIONS = 60
# A reader's statements take less time, and wait for no lock.
READER_LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "1min",
}


class Applied(NamedTuple):
    """The result of writing the consumers.

    Attributes:
        added, changed, removed: names of consumers.
        statements: SQL that the operator has to run, so that consumers' roles can read.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    statements: tuple[str, ...]


def apply(
    database_url: Secret, consumers: Sequence[ConsumerRules], *, keep: timedelta, keep_inherited: bool
) -> Applied:
    """Make the table hold these consumers and no others.

    Args:
        keep: for how long records of reads are kept.
        keep_inherited: whether roles keep the rights that a migration gave them, until a consumer names them.

    Raises:
        AccessDenied, ConfigurationError, TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    wanted = {each.name: each for each in consumers}
    with _transaction(database_url) as connection:
        connection.execute(_WAIT)
        connection.execute(_LOCK)
        before = {each.name: each for each in _select(connection)}
        removed = before.keys() - wanted.keys() - (_untouched(before, wanted) if keep_inherited else set())
        added = wanted.keys() - before.keys()
        changed = {name for name in before.keys() & wanted.keys() if before[name] != wanted[name]}
        # Deleted first, as a client id, role or key may move from one consumer to another.
        connection.execute(_DELETE, {"names": sorted(removed | changed)})
        for name in sorted(added | changed):
            connection.execute(_INSERT, _values(wanted[name]))
        connection.execute(_SET_KEEP, {"keep": keep})
        unready = connection.execute(_UNREADY_ROLES).all()
    statements = tuple(each for role, is_there in unready for each in _statements(role, is_there=is_there))
    return Applied(tuple(sorted(added)), tuple(sorted(changed)), tuple(sorted(removed)), statements)


def list_consumers(database_url: Secret) -> list[ConsumerRules]:
    """List the consumers of the table, by name.

    Raises:
        AccessDenied, ConfigurationError, TemporarilyUnavailable: as ``explain`` names the database's failure.
    """
    with _transaction(database_url) as connection:
        return _select(connection)


async def load_consumers(vault: Database) -> list[ConsumerRules]:
    """Load the consumers over an open vault's connections."""
    return [_rules(row) for row in await vault.run(_SELECT)]


@contextmanager
def _transaction(database_url: Secret) -> Iterator[Connection]:
    engine = create_command_engine(database_url)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise explain(error) from None


def _select(connection: Connection) -> list[ConsumerRules]:
    return [_rules(tuple(row)) for row in connection.execute(_SELECT)]


def _untouched(before: dict[str, ConsumerRules], wanted: dict[str, ConsumerRules]) -> set[str]:
    """Return the inherited consumers whose role no consumer names."""
    roles = {each.role for each in wanted.values()}
    return {name for name, each in before.items() if each.inherited and each.role not in roles}


def _rules(row: tuple[Any, ...]) -> ConsumerRules:
    values = dict(zip(_COLUMNS, row, strict=True))
    return ConsumerRules(
        **values
        | {"connections": tuple(values["connections"])}
        | {"tenants": None if values["tenants"] is None else tuple(values["tenants"])}
    )


def _values(rules: ConsumerRules) -> dict[str, Any]:
    tenants = None if rules.tenants is None else list(rules.tenants)
    return asdict(rules) | {"connections": list(rules.connections), "tenants": tenants}


def _statements(role: str, *, is_there: bool) -> list[str]:
    """Return statements that make a role a reader, with limits."""
    quoted = '"' + role.replace('"', '""') + '"'
    if is_there:
        return [f"GRANT vault_reader TO {quoted};"]
    return [
        f"CREATE ROLE {quoted} LOGIN PASSWORD '…' CONNECTION LIMIT {READER_CONNECTIONS} IN ROLE vault_reader;",
        *(f"ALTER ROLE {quoted} SET {name} = '{value}';" for name, value in READER_LIMITS.items()),
    ]
