"""Roles as docs/operating.md makes them for readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from psycopg import sql as composing
from psycopg.conninfo import make_conninfo

from token_vault.secret import Secret

# Granted each by itself, and not by way of vault_reader, so that tests can revoke one.
GRANTS = (
    "CREATE ROLE {} LOGIN PASSWORD 'choose one'",
    "GRANT USAGE ON SCHEMA public TO {}",
    "GRANT SELECT ON served_tokens, served_resource_tokens, token_status TO {}",
    "GRANT EXECUTE ON FUNCTION request_refresh, report_rejected, record_reads TO {}",
)
CONSUMER = """
INSERT INTO consumers (name, role, connections, users, admins, refresh)
VALUES (%(name)s, %(name)s, %(connections)s, %(users)s, %(admins)s, %(refresh)s)
"""
# The owner of a role may not act for it before it is a member.
REMOVAL = ("GRANT {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}")


class NewRole(Protocol):
    """Makes a reader's role that is a consumer of these grants; returns its URL."""

    def __call__(
        self,
        *,
        connections: Sequence[str] = ("*",),
        users: bool = True,
        admins: bool = True,
        refresh: bool = True,
    ) -> Secret: ...


@contextmanager
def reader_roles(database_url: Secret) -> Iterator[NewRole]:
    """Make a reader's role at each call; return its URL."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as owner, ExitStack() as stack:

        def run(statement: str, role: str) -> None:
            owner.execute(composing.SQL(statement).format(composing.Identifier(role)))

        def make(
            *,
            connections: Sequence[str] = ("*",),
            users: bool = True,
            admins: bool = True,
            refresh: bool = True,
        ) -> Secret:
            role = f"reader_{uuid4().hex}"
            for statement in GRANTS:
                run(statement, role)
            values = {
                "name": role,
                "connections": list(connections),
                "users": users,
                "admins": admins,
                "refresh": refresh,
            }
            owner.execute(CONSUMER, values)
            stack.callback(owner.execute, "DELETE FROM consumers WHERE name = %s", (role,))
            for statement in reversed(REMOVAL):
                stack.callback(run, statement, role)
            return Secret(make_conninfo(database_url.reveal(), user=role, password="choose one"))

        yield make


def connect(database_url: Secret, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect to the vault's database."""
    return psycopg.connect(database_url.reveal(), autocommit=autocommit)
