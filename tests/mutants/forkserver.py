"""Runs pytest in forks of one process that has imported the packages, but no file of the project.

Reads one JSON object a line: ``arguments`` of pytest, ``environment``, ``log``. Writes the fork's process id, then its
exit code. Importing the packages takes longer than most tests.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from contextlib import suppress

INTERNAL_ERROR = 3  # as pytest calls it

_PACKAGES = (
    "pytest", "sqlalchemy.ext.asyncio", "sqlalchemy.dialects.postgresql", "psycopg", "httpx", "aiohttp", "httpx_aiohttp",
    "celery", "kombu", "redis", "pydantic", "pydantic_settings", "structlog", "typer", "rich.console", "starlette.applications",
    "uvicorn", "cryptography.fernet", "jwt", "alembic.command", "tenacity", "xml.etree.ElementTree", "asyncio", "sqlite3",
)  # fmt: skip


def main() -> None:
    """Serve until the input ends."""
    for name in _PACKAGES:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(order["arguments"], order["environment"], order["log"])
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Become one run of pytest; never returns."""
    code = INTERNAL_ERROR
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment)
        sys.argv = ["pytest", *arguments]
        import pytest

        code = int(pytest.main(arguments))
    except BaseException:  # of a thread, a signal, or a plugin: the log says which
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
