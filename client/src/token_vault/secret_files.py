"""Files that hold a secret.

Errors name the setting and not the path, in case the secret itself was given as the path.
"""

from __future__ import annotations

from pathlib import Path

from token_vault.errors import ConfigurationError


def read_secret_file(path: str, name: str) -> str:
    """Read a secret from a file.

    Raises:
        ValueError: it names neither the path nor the file's contents.
    """
    try:
        # Editors on Windows begin a file with a byte order mark, which is not part of the secret.
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
