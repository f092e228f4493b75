"""Every connection to Postgres that the package makes is closed when its host is gone without a word."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from token_vault.connect_args import CONNECT_ARGS

ROOT = Path(__file__).parents[3]
CONNECTING = ("psycopg.connect", "psycopg.AsyncConnection.connect", "create_engine", "create_async_engine")
# On the embedded server, over loopback.
EXEMPT = ("worker/embedded/postgres.py",)


def calls() -> list[tuple[str, ast.Call]]:
    """Each call that connects, with the file it stands in."""
    found = []
    for path in [*(ROOT / "worker").rglob("*.py"), *(ROOT / "migrations").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in CONNECTING and name not in EXEMPT:
                found.append((name, node))
    return found


@pytest.mark.parametrize(("file", "call"), calls(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_silent_host_is_given_up(file: str, call: ast.Call) -> None:
    """A connection is told how long to bear silence; the kernel alone would bear it for hours."""
    given = " ".join(ast.unparse(keyword.value) for keyword in call.keywords)
    assert "CONNECT" in given, f"{file}:{call.lineno}"


def test_libpq_knows_the_parameters() -> None:
    """None of them is a word that libpq would refuse."""
    assert "tcp_user_timeout=10000" in make_conninfo("", **CONNECT_ARGS)
