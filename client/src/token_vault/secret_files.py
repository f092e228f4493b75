"""Files that hold a secret.

An error names the setting, and no secret that stands there by mistake.
"""

from __future__ import annotations

from pathlib import Path

from token_vault.errors import ConfigurationError


def read_secret_file(path: str, name: str) -> str:
    """Read a secret from a file.

    Raises:
        ValueError: which names neither the path nor what the file holds.
    """
    try:
        # Editors of Windows begin a file with a byte order mark, which is none of the secret.
        found = Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name}: the file cannot be read ({type(error).__name__}): name one that is there for this user"
        ) from None
    if not found:
        raise ValueError(f"{name}: the file is empty: put the secret into it")
    return found


def secret_file(path: str, name: str) -> str:
    """Read a secret; raises ConfigurationError in place of ValueError."""
    try:
        return read_secret_file(path, name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
