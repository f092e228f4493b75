"""A reader is a guest in another program: it brings along little, and nothing of the workers' side."""

from __future__ import annotations

import subprocess
import sys

from tests.support.wait import WAIT_SECONDS

WORKERS_SIDE = (
    "celery", "kombu", "billiard", "redis", "alembic", "sqlalchemy", "httpx", "aiohttp", "httpx_aiohttp", "typer", "rich",
    "pydantic", "structlog", "worker",
)  # fmt: skip


def modules_after(statements: str) -> set[str]:
    """The modules that a new interpreter holds after these statements."""
    program = f"import sys\n{statements}\nprint('\\n'.join(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    return set(found.stdout.split())


def test_importing_the_client_brings_nothing_of_the_workers_side() -> None:
    """Importing the readers loads no Celery, no SQLAlchemy, no Alembic, no HTTP client and nothing of the worker."""
    loaded = modules_after("from token_vault import TokenVault")
    assert "token_vault.client" in loaded
    assert sorted(loaded.intersection(WORKERS_SIDE)) == []
