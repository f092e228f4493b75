"""The vault's roles, and what each may do.

``vault_worker`` runs workers, ``vault_reader`` is what roles of consumers are members of, ``vault_operator`` says who
may read and sees who has. They are groups: roles that log in are made members by the operator.
"""

from __future__ import annotations

from psycopg import errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from worker.vault.db.sql import load

ROLES = ("vault_worker", "vault_reader", "vault_operator")

_GRANTS = load(__file__, "role_grants")
_OPEN_SCHEMA = load(__file__, "open_schema")
_EXISTING = text("SELECT rolname FROM pg_roles WHERE rolname = ANY (:roles)")


def grant_roles(connection: Connection) -> list[str]:
    """Make the roles and give them their rights.

    Returns:
        The statements that are left to the operator: the role at hand may not run them, or they concern others.
    """
    existing = set(connection.execute(_EXISTING, {"roles": list(ROLES)}).scalars())
    left = [
        statement
        for role in ROLES
        if role not in existing and not _ran(connection, statement := f"CREATE ROLE {role} NOLOGIN")
    ]
    left += [
        statement
        for statement in connection.execute(_GRANTS).scalars().all()
        if not _ran(connection, statement)
    ]
    # Not run: other programs in this database may count on it, and only the operator knows.
    left += connection.execute(_OPEN_SCHEMA).scalars().all()
    return left


def _ran(connection: Connection, statement: str) -> bool:
    """Run a statement; False where the role may not."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        # Another database's migration may have made the role meanwhile: roles belong to the whole server.
        if isinstance(error.orig, errors.DuplicateObject | errors.UniqueViolation):
            return True
        # A role that could not be made does not exist for what follows.
        if isinstance(error.orig, errors.InsufficientPrivilege | errors.UndefinedObject):
            return False
        raise
    return True
