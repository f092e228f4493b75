"""An environment in which nothing of the vault's is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_PREFIXES = ("AUTH0_", "VAULT_", "TOKEN_VAULT_", "DATABASE_", "REDIS_URL")


def set_home_alone(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Take all of the vault's variables away, in either case, but its home."""
    for name in os.environ:
        if name.upper().startswith(_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOKEN_VAULT_HOME", str(home))
