"""Roles that log in as members of the vault's own roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql as composing
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from tests.support.reader_roles import REMOVAL
from token_vault.secret import Secret

NewMember = Callable[[str], Secret]


@contextmanager
def role_members(database_url: Secret) -> Iterator[NewMember]:
    """Make a member of a role at each call; return its URL."""
    with psycopg.connect(database_url.reveal(), autocommit=True) as owner, ExitStack() as stack:

        def run(statement: str, role: str, of: str = "") -> None:
            names = map(composing.Identifier, filter(None, (role, of)))
            owner.execute(composing.SQL(statement).format(*names))

        def make(of: str) -> Secret:
            role = f"member_{uuid4().hex}"
            run("CREATE ROLE {} LOGIN PASSWORD 'choose-one' IN ROLE {}", role, of)
            for statement in reversed(REMOVAL):
                stack.callback(run, statement, role)
            where = conninfo_to_dict(database_url.reveal())
            url = URL.create(
                "postgresql",
                role,
                "choose-one",
                str(where["host"]),
                int(where.get("port") or 5432),
                str(where["dbname"]),
            )
            return Secret(url.render_as_string(hide_password=False))

        yield make
