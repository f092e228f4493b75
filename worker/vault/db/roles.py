"""The vault's roles, and what each may do.

``vault_worker`` runs workers, ``vault_reader`` reads for consumers, ``vault_operator`` sets who may read and lists who
did. They are groups: the operator makes the roles that log in members of them.
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
    """Create the roles, and grant them their rights.

    Returns:
        The statements that the operator has to run: the current role may not, or they concern other programs.
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
    # These are not run, as other programs in this database may depend on the right; only the operator knows.
    left += connection.execute(_OPEN_SCHEMA).scalars().all()
    return left


def _ran(connection: Connection, statement: str) -> bool:
    """Run a statement; False if the role may not."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        # Another database's migration may have created the role meanwhile, as roles belong to the whole server.
        if isinstance(error.orig, errors.DuplicateObject | errors.UniqueViolation):
            return True
        # Without the right to create a role, the grants to it fail too.
        if isinstance(error.orig, errors.InsufficientPrivilege | errors.UndefinedObject):
            return False
        raise
    return True
