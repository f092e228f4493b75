"""The key rings that an embedded vault keeps under its home."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from token_vault.secret import Secret
from worker.settings.paths import secret_file


def key_file(home: Path, ring: str) -> Path:
    """Where an embedded vault keeps the keys of a ring: made on its first start, mode 0600."""
    return home / "keys" / ring


def home_keys(home: Path, ring: str) -> tuple[Secret, ...]:
    """Read the keys of a ring that an embedded vault keeps; none where it has no such file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    path = key_file(home, ring)
    with suppress(PermissionError):  # a folder of another user's: reading says so
        if not path.exists():
            return ()
    return tuple(
        Secret(line) for line in secret_file(str(path), f"{ring} keys under TOKEN_VAULT_HOME").split()
    )
