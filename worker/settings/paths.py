"""What a path in the settings leads to; an error names the setting, and no secret that stands there by mistake."""

from __future__ import annotations

from pathlib import Path

from token_vault.errors import ConfigurationError


def absolute(path: Path, name: str) -> Path:
    """Make a path absolute, with the home folder in place of a tilde.

    Raises:
        ConfigurationError: there is no such home folder.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:  # a tilde before a name that is no user's
        raise ConfigurationError(f"{name} names the home folder of a user who is not known here") from None


def read_secret_file(path: str, name: str) -> str:
    """Read a secret; raises ValueError, which names neither the path nor what the file holds."""
    try:
        found = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: the file cannot be read ({type(error).__name__})") from None
    if not found:
        raise ValueError(f"{name}: the file is empty")
    return found


def secret_file(path: str, name: str) -> str:
    """Read a secret where pydantic does not look on; raises ConfigurationError in place of ValueError."""
    try:
        return read_secret_file(path, name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
