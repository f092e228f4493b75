"""A reader is a guest in another program: it brings along little, and nothing of the workers' side."""

from __future__ import annotations

import subprocess
import sys

from tests.support.wait import WAIT_SECONDS

WORKERS_SIDE = (
    "celery", "kombu", "billiard", "alembic", "sqlalchemy", "httpx", "aiohttp", "httpx_aiohttp", "typer", "rich",
    "pydantic", "structlog", "worker",
)  # fmt: skip

ALSO_WHEN_ASKING = ("celery.bin", "celery.beat", "alembic", "sqlalchemy", "worker.app", "worker.tasks")


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


def test_asking_for_a_refresh_brings_only_celerys_sending_side() -> None:
    """Queueing a refresh loads Celery's application to send with, and neither its worker nor ours."""
    loaded = modules_after(
        "from token_vault.refresh_request import Asking\n"
        "from token_vault.secret import Secret\n"
        "Asking(Secret('redis://127.0.0.1:1/0'))._producer().amqp"
    )
    assert "celery" in loaded
    assert sorted(loaded.intersection(ALSO_WHEN_ASKING)) == []
