"""Every connection to Postgres is made in one place, with the vault's settings and a bound on silence."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from token_vault.connect import CONNECT_ARGS, _options, _parameters
from token_vault.postgres_address import PostgresAddress

ROOT = Path(__file__).parents[3]
CONNECTING = ("psycopg.connect", "psycopg.AsyncConnection.connect", "create_engine", "create_async_engine")
# The first makes connections for readers, the second has SQLAlchemy take them from the first. The last asks the
# embedded server over loopback whether it is there yet.
EXEMPT = ("client/src/token_vault/connect.py", "worker/vault/db/engine.py", "worker/embedded/postgres.py")


def test_all_connect_in_one_place() -> None:
    """No other module connects, so none forgets the settings or the bound on a silent host."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("worker", "migrations", "client/src")
        for path in (ROOT / folder).rglob("*.py")
        if str(path.relative_to(ROOT)) not in EXEMPT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CONNECTING
    ]
    assert found == []


def test_libpq_knows_the_parameters() -> None:
    """None of them is a word that libpq would refuse."""
    assert "tcp_user_timeout=10000" in make_conninfo("", **CONNECT_ARGS)


def test_the_address_has_the_last_word_on_its_own_parameters() -> None:
    """A time-out or a name that the operator gives stands; without one there are the vault's."""
    given = PostgresAddress.parse("postgresql://localhost/d?connect_timeout=3&application_name=mine")
    parameters = _parameters(given, "token-vault", {})
    assert (parameters["connect_timeout"], parameters["application_name"]) == ("3", "mine")
    assert parameters["keepalives_idle"] == CONNECT_ARGS["keepalives_idle"]
    plain = _parameters(PostgresAddress.parse("postgresql://localhost/d"), "token-vault", {})
    assert plain["application_name"] == "token-vault"


def test_options_are_added_to_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two words on a setting the later counts: the operator's on the schema, the vault's on formats."""
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=9s")
    written = _options("-c search_path=vault -c datestyle=german", {})
    assert written.index("search_path=vault") > written.index('search_path="$user"')
    assert written.index("DateStyle=ISO") > written.index("datestyle=german")
    assert "default_transaction_isolation=read\\ committed" in written
    without = PostgresAddress.parse("postgresql://localhost/d")
    assert "statement_timeout=9s" in _parameters(without, "token-vault", {})["options"]
