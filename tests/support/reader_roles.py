"""Roles as docs/operating.md makes them for readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql as composing
from psycopg.conninfo import make_conninfo

from token_vault.secret import Secret

GRANTS = (
    "CREATE ROLE {} LOGIN PASSWORD 'choose one'",
    "GRANT USAGE ON SCHEMA public TO {}",
    "GRANT SELECT ON served_tokens, token_status TO {}",
    "GRANT EXECUTE ON FUNCTION request_refresh, report_rejected TO {}",
)
# The owner of a role may not act for it before it is a member.
REMOVAL = ("GRANT {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}")

NewRole = Callable[[], Secret]


@contextmanager
def reader_roles(database_url: Secret) -> Iterator[NewRole]:
    """Make a reader's role at each call; return its URL."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as owner, ExitStack() as stack:

        def run(statement: str, role: str) -> None:
            owner.execute(composing.SQL(statement).format(composing.Identifier(role)))

        def make() -> Secret:
            role = f"reader_{uuid4().hex}"
            for statement in GRANTS:
                run(statement, role)
            for statement in reversed(REMOVAL):
                stack.callback(run, statement, role)
            return Secret(make_conninfo(database_url.reveal(), user=role, password="choose one"))

        yield make


def connect(database_url: Secret, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect to the vault's database."""
    return psycopg.connect(database_url.reveal(), autocommit=autocommit)
