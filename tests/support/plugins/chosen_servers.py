"""Runs the tests on another Postgres or Redis than the embedded ones.

``TESTS_POSTGRES`` and ``TESTS_REDIS`` name the programs, whose companions, as ``initdb``, lie beside them. Commands that
tests start as processes of their own, as ``token-vault up``, keep the embedded servers.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from worker.embedded import postgres
from worker.embedded.redis import Redis


def pytest_configure(config: pytest.Config) -> None:
    """Put the named programs in the place of the embedded ones."""
    if named := os.environ.get("TESTS_POSTGRES"):
        installed = {postgres.major_version(Path(named)): Path(named).parent}
        _replace(config, postgres, "_installations", lambda: installed)
    if named := os.environ.get("TESTS_REDIS"):
        program = Path(named)
        _replace(config, Redis, "program", lambda _: program)


def _replace(config: pytest.Config, owner: object, name: str, value: object) -> None:
    replaced = patch.object(owner, name, value)
    replaced.start()
    config.add_cleanup(replaced.stop)
